"""Convert a TensorFlow, Keras or PyTorch EfficientNet checkpoint: the same as `python -m timm_effnet_ext convert`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from timm_effnet_ext.__main__ import main as run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `convert` command."""
    return run(["convert", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
