"""EfficientNet v1, v2, Lite and EdgeTPU for timm: `import timm, timm_effnet_ext` registers the models."""

from typing import Any

from timm_effnet_ext._register import when_timm_is_there

__version__ = "0.1.0.dev0"

when_timm_is_there()


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: the package alone must not."""
    if name == "optimize_for_inference":
        from timm_effnet_ext.speed.fold import optimize_for_inference

        return optimize_for_inference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
