"""Which pretrained weights the registry knows of an architecture, by tag."""

from __future__ import annotations

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from timm_effnet_ext.arch import PREFIX, Arch
from timm_effnet_ext.errors import EffNetExtError


def cfgs_by_tag(name: str) -> dict[str, PretrainedCfg]:
    """Return tag -> pretrained cfg of a registry name, the default tag first; not every one has weights."""
    return {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(name).items()}


def find_cfg(arch: Arch, tag: str) -> PretrainedCfg:
    """Return the cfg of one tag.

    Raises:
        EffNetExtError: There is none; the message lists those that are.
    """
    cfgs = cfgs_by_tag(PREFIX + arch.name)
    if tag not in cfgs:
        raise EffNetExtError(f"{PREFIX}{arch.name} has no weights {tag!r}, only {', '.join(cfgs)}")
    return cfgs[tag]
