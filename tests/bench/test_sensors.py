"""Sensors as their drivers show them: powercap (kernel docs), hwmon/ina3221 (kernel docs)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from n2q_edge.bench import sensors


def write(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def ina3221(rails: Mapping[int, tuple[str, int, int]], number: int = 0) -> dict[str, object]:
    files: dict[str, object] = {f"class/hwmon/hwmon{number}/name": "ina3221"}
    for channel, (label, millivolts, milliamperes) in rails.items():
        folder = f"class/hwmon/hwmon{number}"
        files[f"{folder}/in{channel}_label"] = label
        files[f"{folder}/in{channel}_input"] = millivolts
        files[f"{folder}/curr{channel}_input"] = milliamperes
    return files


def named(found: sensors.Sensors) -> dict[str, sensors.Source]:
    return {source.name: source for source in found.sources}


def test_an_empty_machine_gives_reasons_and_nothing_else(tmp_path: Path) -> None:
    found = sensors.find(tmp_path)
    assert not [source for source in found.sources if not source.name.startswith("nvml")]
    assert set(found.missing) >= {"ina", "rapl"}
    assert all(found.missing.values())


def test_orin_nano_rails_are_volts_times_amperes(tmp_path: Path) -> None:
    rails = {1: ("VDD_IN", 5000, 1200), 2: ("VDD_CPU_GPU_CV", 5000, 400), 3: ("VDD_SOC", 5000, 300)}
    found = named(sensors.find(write(tmp_path, ina3221(rails))))
    assert found["ina VDD_IN"].read() == pytest.approx(6.0)  # 5 V x 1.2 A
    assert "ina whole module" not in found  # VDD_IN is the whole


def test_agx_orin_sums_its_three_supply_rails(tmp_path: Path) -> None:
    supply = {
        1: ("VDD_GPU_SOC", 20000, 400),
        2: ("VDD_CPU_CV", 20000, 100),
        3: ("VIN_SYS_5V0", 5000, 800),
    }
    inner = {2: ("VDDQ_VDD2_1V8AO", 5000, 100)}
    found = named(sensors.find(write(tmp_path, ina3221(supply) | ina3221(inner, 1))))
    assert found["ina whole module"].read() == pytest.approx(8 + 2 + 4)


def test_thor_has_one_power_monitor(tmp_path: Path) -> None:
    files = {"class/hwmon/hwmon3/name": "ina238", "class/hwmon/hwmon3/power1_input": 25_000_000}
    found = named(sensors.find(write(tmp_path, files)))
    assert found["ina VIN"].read() == pytest.approx(25.0)  # microwatts


def rapl(root: Path, energy: int) -> Path:
    zone = "class/powercap/intel-rapl:0"
    return write(
        root,
        {
            f"{zone}/name": "package-0",
            f"{zone}/energy_uj": energy,
            f"{zone}/max_energy_range_uj": 1_000_000_000,
            f"{zone}:0/name": "core",
            f"{zone}:0/energy_uj": 1,
            f"{zone}:0/max_energy_range_uj": 1_000_000_000,
        },
    )


def test_energy_of_a_package_over_a_block(tmp_path: Path) -> None:
    found = sensors.find(rapl(tmp_path, 5_000_000))
    assert list(named(found)) == ["rapl package-0"]  # the core is part of it
    meter = sensors.Meter(found)
    with meter.block():
        rapl(tmp_path, 7_500_000)
    assert meter.joules == {"rapl package-0": pytest.approx(2.5)}


def test_a_counter_that_started_again(tmp_path: Path) -> None:
    meter = sensors.Meter(sensors.find(rapl(tmp_path, 999_000_000)))
    with meter.block():
        rapl(tmp_path, 1_000_000)
    assert meter.joules == {"rapl package-0": pytest.approx(2.0)}  # 1 J to the end of its range, 1 J after


def test_constant_power_is_energy_over_time(tmp_path: Path) -> None:
    meter = sensors.Meter(sensors.find(write(tmp_path, ina3221({1: ("VDD_IN", 5000, 2000)}))))
    with meter.block():
        time.sleep(0.12)
    assert meter.watts() == {"ina VDD_IN": pytest.approx(10.0)}
    assert meter.joules["ina VDD_IN"] == pytest.approx(10 * meter.seconds)


def test_unreadable_counter_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path, 1)
    read_text = Path.read_text

    def refuse(path: Path, *arguments: object, **more: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "root" in sensors.find(tmp_path).missing["rapl"]


def test_state_of_a_machine(tmp_path: Path) -> None:
    system = write(
        tmp_path / "sys",
        {
            "class/thermal/thermal_zone0/type": "cpu-thermal",
            "class/thermal/thermal_zone0/temp": 48500,
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 1_510_400,
            "devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
        },
    )
    proc = write(tmp_path / "proc", {"loadavg": "0.42 0.30 0.20 1/123 456"})
    found = sensors.state(system, proc)
    assert found["temperatures_c"] == {"cpu-thermal": 48.5}
    assert (found["cpu_mhz"], found["cpu_governor"], found["load_average"]) == (1510.4, "schedutil", 0.42)
