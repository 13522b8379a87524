"""The thresholds are those of trtexec: enqueue over 0.8 of compute, a copy as long as compute, 1 % spread."""

from __future__ import annotations

from typing import Any

from n2q_edge.bench.diagnosis import warnings_about


def block(total: list[float], h2d: float | None, compute: float, d2h: float | None) -> dict[str, Any]:
    return {
        "total": total,
        "h2d": [h2d] * len(total),
        "compute": [compute] * len(total),
        "d2h": [d2h] * len(total),
    }


def kinds(blocks: list[dict[str, Any]], *, on_gpu: bool) -> list[str]:
    return [warning.partition(":")[0] for warning in warnings_about(blocks, on_gpu=on_gpu)]


def test_a_quiet_gpu_gets_no_warning() -> None:
    assert kinds([block([1.7] * 9, 0.1, 1.5, 0.1)], on_gpu=True) == []


def test_enqueue_bound() -> None:
    assert kinds([block([2.0] * 9, 0.1, 1.0, 0.1)], on_gpu=True) == []  # 0.8 of the compute time, not over it
    assert kinds([block([2.1] * 9, 0.1, 1.0, 0.1)], on_gpu=True) == ["enqueue-bound"]


def test_transfer_bound() -> None:
    assert kinds([block([3.0] * 9, 1.0, 1.0, 0.9)], on_gpu=True) == ["transfer-bound"]


def test_gpu_compute_must_vary_less_than_one_percent() -> None:
    steady, unsteady = block([1.2] * 2, 0.0, 1.0, 0.0), block([1.2] * 2, 0.0, 1.03, 0.0)
    assert kinds([steady, unsteady], on_gpu=True) == ["unstable"]  # 1.00 and 1.03: 1.5 %


def test_a_cpu_may_vary_five_percent() -> None:
    assert kinds([block([100.0, 108.0], None, 90.0, None)], on_gpu=False) == []  # 3.8 %
    assert kinds([block([100.0, 112.0], None, 90.0, None)], on_gpu=False) == ["unstable"]  # 5.7 %
