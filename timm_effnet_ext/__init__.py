"""EfficientNet v1, v2, Lite and EdgeTPU for timm; importing this registers the models."""

__version__ = "0.1.0.dev0"
