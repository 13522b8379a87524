"""Freed memory stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """
import resource, numpy as np
from n2q_edge.malloc import keep_freed_memory
keep_freed_memory()
np.ones(1 << 20)  # takes 8 MiB from the kernel, and frees it
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="needs glibc")
def test_memory_that_was_freed_costs_no_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 200  # one array alone has 2048 pages of 4 KiB


@pytest.mark.parametrize("error", [ValueError, AttributeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    from n2q_edge import malloc

    def confstr(name: str) -> str:
        raise error

    monkeypatch.setattr(malloc.os, "confstr", confstr)
    monkeypatch.setattr(malloc.ctypes, "CDLL", None)  # would raise if called
    malloc.keep_freed_memory()
