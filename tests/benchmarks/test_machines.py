from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks.machines import NOT_MEASURED, Device, Work, devices, floor_ms, machines_page, markdown_table
from tests.helpers.paths import ROOT

FACTS = ROOT / "benchmarks" / "devices.toml"


def facts() -> dict[str, Any]:
    if not FACTS.exists():
        pytest.skip("no benchmarks/devices.toml beside the tests")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(FACTS.read_text(encoding="utf-8"))


def test_peaks_are_the_published_ones() -> None:
    loaded = facts()
    peaks = {device.name: device.peak_flops for device in devices(loaded)}
    published = {
        device["name"]: device["published_tflops"]
        for device in loaded["device"]
        if "published_tflops" in device
    }
    assert len(published) >= 5
    for name, tflops in published.items():
        assert peaks[name] == pytest.approx(tflops * 1e12, rel=0.01)


def test_floor_is_the_larger_of_arithmetic_and_memory_plus_the_copies() -> None:
    card = Device("card", peak_flops=100e12, bandwidth=500e9, pcie=25e9, source="")
    board = Device("board", peak_flops=100e12, bandwidth=1e9, pcie=None, source="")
    work = Work("net", flops=1e9, memory_bytes=5e6, io_bytes=2.5e6)
    assert floor_ms(card, work) == pytest.approx(0.01 + 0.1)  # 1e9 / 1e14 s, 2.5e6 / 25e9 s
    assert floor_ms(board, work) == pytest.approx(5.0)  # 5e6 / 1e9 s


def test_an_unmeasured_device_has_no_measurement() -> None:
    page = machines_page(
        [], [Device("Board", 1e12, 1e11, None, "https://example.org")], [Work("net", 1e9, 1, 1)]
    )
    row = next(line for line in page.splitlines() if line.startswith("| Board"))
    assert NOT_MEASURED in row
    assert "| 1 |" in row  # 1e9 / 1e12 s


def test_cells_cannot_break_the_table() -> None:
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |\n"
