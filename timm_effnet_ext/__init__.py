"""EfficientNet v1, v2, Lite, EdgeTPU and CondConv for timm: `import timm, timm_effnet_ext` registers the models.

What else the package offers in Python is imported when it is asked for, so that this costs nothing to whoever needs the
models alone; docs/python.md shows each name.
"""

from importlib import import_module
from typing import Any

from timm_effnet_ext._register import when_timm_is_there

__version__ = "0.1.0.dev0"

_ELSEWHERE = {
    "EffNetExtError": ("errors", "EffNetExtError"),
    "CheckpointFormatError": ("errors", "CheckpointFormatError"),
    "NameMappingError": ("errors", "NameMappingError"),
    "VerificationError": ("errors", "VerificationError"),
    "convert_checkpoint": ("convert.pipeline", "convert"),
    "ConvertOptions": ("convert.records", "Options"),
    "inspect_checkpoint": ("convert.inspection", "inspect_source"),
    "load_classifier": ("predict.classifier", "load_classifier"),
    "draw_cam": ("predict.cam", "explain"),
    "export_classifier": ("export.write", "export"),
    "ExportOptions": ("export.write", "ExportOptions"),
    "optimize_for_inference": ("models.fold", "optimize_for_inference"),
    "keep_freed_memory": ("memory", "keep_freed_memory"),
}
__all__ = [*_ELSEWHERE]

when_timm_is_there()


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _ELSEWHERE[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    """Return the names that are there and those that can be asked for."""
    return sorted({*globals(), *__all__})
