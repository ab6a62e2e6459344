"""EfficientNet v1, v2, Lite and EdgeTPU for timm: `import timm, timm_effnet_ext` registers the models."""

from timm_effnet_ext._register import when_timm_is_there

__version__ = "0.1.0.dev0"

when_timm_is_there()
