"""Keeps what a process frees for its next feature maps, where the C library would hand it back and ask again."""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of glibc's malloc.h, for mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = -1, 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process, and those that it forks, keep freed memory for what they allocate next.

    glibc maps every block of more than 32 MB, such as a feature map of a batch, when it is asked for, and unmaps it
    when it is freed. So each step of a network gets the same memory anew, page by page, and every page is cleared
    first. Afterwards blocks up to 2 GB come from memory that the process keeps: it goes on having the most that it ever
    had in use. Torch is told to ask for huge pages, which it heeds if it has made no tensor yet.

    It holds for the whole process and cannot be taken back. The commands that compute call it; importing this package,
    creating a model and `optimize_for_inference` do not.

    Returns:
        Whether the C library took it; there is none to tell but glibc, on Linux.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
