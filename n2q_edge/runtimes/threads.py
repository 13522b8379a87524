"""How many threads a model may use on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores(
    sys_cpu: Path = Path("/sys/devices/system/cpu"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Physical cores this process may use: its CPU affinity, no hyper-threads, within its container's quota.

    The inference libraries look at affinity but not at a quota, and 64 threads on a quota of 2 CPUs are
    slower than 2.

    Args:
        sys_cpu: where Linux describes its CPUs.
        cgroup: where Linux describes the container (cgroup v2).
    """
    cpus = _usable_cpus()
    cores = {_siblings(sys_cpu, cpu) for cpu in cpus}
    quota = _quota(cgroup)
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(sys_cpu: Path, cpu: int) -> str:
    """What hyper-threads of one core have in common."""
    try:
        return (sys_cpu / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(cgroup: Path) -> int | None:
    """Whole CPUs of a cgroup v2 quota ("200000 100000" is 2), or None for no quota."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else max(1, int(limit) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
