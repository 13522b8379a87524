"""Keep freed memory for the next slice: getting it anew from the kernel costs a page fault for every 4 KiB.

Every slice needs the same arrays of about a megabyte. glibc gives memory of that size back as soon as it is
free, and a heap to every thread. On a virtual machine with 2 cores that took 2 to 4 ms of a slice's processor
time.
"""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc's malloc, for the whole process; do nothing where the C library is another one."""
    if _is_glibc():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _NEVER)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_ARENA_MAX, 1)  # or what one thread freed is of no use to another


def give_back_freed_memory() -> None:
    """Return it after the last slice: Python's own allocator, which holds the report, has no use for it."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # Windows; macOS and musl
        return False
