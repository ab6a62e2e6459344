"""The names that train.py's YAML may set, as they were read from the real script."""

from __future__ import annotations

from pathlib import Path

OPTIONS = {
    name
    for line in Path(__file__).with_name("train_py_options.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for name in line.split()
}
