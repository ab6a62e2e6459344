"""Downloads the wheels that a GPU machine without a network lacks: `python -m benchmarks.gpu.wheels FOLDER`.

That is what this package and its pictures need beyond torch and torchvision, which such a machine brings or `--torch`
adds, in the versions that are installed here. The machine's Python may be another, its processor is x86-64.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OURS, _TORCH = "timm_effnet_ext[plot]", ("torch", "torchvision")
# Where torch runs there is glibc 2.28, which its own wheels ask for; pip takes each of these names for itself alone.
_PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64",
              "manylinux2010_x86_64", "manylinux1_x86_64")  # fmt: skip


def installed(*roots: str) -> dict[str, str]:
    """Return the versions of `roots`, as they are installed here, and of all that these need, by name."""
    versions: dict[str, str] = {}
    seen: set[str] = set()
    to_do = list(map(Requirement, roots))
    while to_do:
        wanted = to_do.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # what torch for a CPU does without
            continue
        versions[canonicalize_name(wanted.name)] = found.version
        for needed in map(Requirement, found.requires or []):
            extras = ("", *wanted.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                to_do.append(needed)
    return versions


def commands(folder: str, python: str, with_torch: bool) -> list[list[str]]:
    """Return the calls of pip that fill `folder`."""
    download = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", folder]
    brought = installed(*_TORCH)
    ours = canonicalize_name(Requirement(_OURS).name)
    lacking = [f"{name}=={version}" for name, version in installed(_OURS).items() if name not in {ours, *brought}]
    target = ["--python-version", python, "--implementation", "cp", *(f"--platform={name}" for name in _PLATFORMS)]
    calls = [[*download, "--no-deps", *target, *sorted(lacking)]]
    if with_torch:  # with what it needs itself, so for this Python and this machine
        calls.append([*download, *(f"{name}=={brought[name].partition('+')[0]}" for name in _TORCH)])
    return calls


def main(argv: Sequence[str] | None = None) -> int:
    """Download as the command line says."""
    here = ".".join(map(str, sys.version_info[:2]))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="gets the wheels")
    parser.add_argument("--python", default=here, metavar="3.N", help=f"that of the machine (default: {here}, as here)")
    parser.add_argument("--torch", action="store_true", help="torch and torchvision, too, for this Python (4 GB)")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"3\.\d+", args.python) or (args.torch and args.python != here):
        parser.error(f"--python {args.python}: expected 3.N, and {here} with --torch")
    return max(subprocess.run(call).returncode for call in commands(args.folder, args.python, args.torch))


if __name__ == "__main__":
    raise SystemExit(main())
