"""Prints the lowest versions that the installed package and its extras allow, as constraints for pip."""

from __future__ import annotations

from importlib.metadata import requires

for requirement in requires("timm_effnet_ext") or []:
    bound = requirement.partition(";")[0]
    if ">=" in bound:
        print(bound.replace(">=", "=="))
