"""Power, clocks, temperature and power mode, where this machine lets them be read; else the reason why not.

Three sources of energy are known: NVIDIA's NVML (a GPU), the INA sensors of a Jetson board (hwmon in sysfs)
and RAPL (a CPU package, powercap in sysfs). Nothing is estimated: what cannot be read is null with a reason.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SYS = Path("/sys")
SAMPLE_SECONDS = 0.05
INA_DRIVERS = ("ina3221", "ina238")  # Orin; Thor
# The rails of AGX Orin that together feed the module. Orin Nano and NX have VDD_IN, which is the whole, and
# Thor has VIN (NVIDIA, Jetson Linux Developer Guide, "Platform Power and Performance").
AGX_ORIN_RAILS = {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}


@dataclass(frozen=True)
class Source:
    """Something that tells energy or power.

    Attributes:
        name: e.g. `rapl package-0`, `nvml NVIDIA L4`, `ina VDD_IN`.
        counts: True if `read` gives joules since some moment, False if it gives watts now.
        read: the reading.
        wraps_at: where a counter starts again, in joules; None if never.
    """

    name: str
    counts: bool
    read: Callable[[], float]
    wraps_at: float | None = None


@dataclass
class Sensors:
    """The sources found, and for every kind that is not there the reason.

    Attributes:
        sources: of energy or power.
        missing: reason by kind.
    """

    sources: list[Source] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def find(sys: Path = SYS) -> Sensors:
    """Look for every kind of sensor. Never raises."""
    found = Sensors()
    for kind, look in (("nvml", _nvml), ("ina", lambda: _ina(sys)), ("rapl", lambda: _rapl(sys))):
        try:
            found.sources += look()
        except _UnreadableError as reason:
            found.missing[kind] = str(reason)
    return found


class _UnreadableError(Exception):
    """Why a kind of sensor gives nothing."""


def _rapl(sys: Path) -> list[Source]:
    zones = sorted((sys / "class" / "powercap").glob("intel-rapl:[0-9]*"))
    packages = [zone for zone in zones if zone.name.count(":") == 1]  # its sub-zones are parts of it
    if not packages:
        raise _UnreadableError("no /sys/class/powercap/intel-rapl: no such CPU, or a virtual machine")
    try:
        return [_rapl_source(zone) for zone in packages]
    except PermissionError:
        raise _UnreadableError("energy_uj may be read by root only (CVE-2020-8694)") from None
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"powercap cannot be read: {error}") from None


def _rapl_source(zone: Path) -> Source:
    def joules() -> float:
        return int((zone / "energy_uj").read_text()) / 1e6

    joules()
    wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
    return Source(f"rapl {(zone / 'name').read_text().strip()}", True, joules, wraps_at)


def _ina(sys: Path) -> list[Source]:
    rails: list[Source] = []
    for monitor in sorted((sys / "class" / "hwmon").glob("hwmon*")):
        if _text(monitor / "name") in INA_DRIVERS:
            rails += _rails(monitor)
    if not rails:
        raise _UnreadableError("no INA power monitor in /sys/class/hwmon: not a Jetson, or not readable")
    names = {rail.name.removeprefix("ina ") for rail in rails}
    if names >= AGX_ORIN_RAILS:
        parts = [rail.read for rail in rails if rail.name.removeprefix("ina ") in AGX_ORIN_RAILS]
        rails.insert(0, Source("ina whole module", False, lambda: sum(read() for read in parts)))
    return rails


def _rails(monitor: Path) -> list[Source]:
    """Rails of an INA3221 (volts and amperes) or an INA238 (watts)."""
    rails = []
    for label in sorted(monitor.glob("in[1-3]_label")):
        volts, amperes = monitor / f"in{label.name[2]}_input", monitor / f"curr{label.name[2]}_input"
        if _text(volts) and _text(amperes):
            rails.append(Source(f"ina {_text(label)}", False, _product(volts, amperes)))
    if not rails and _text(monitor / "power1_input"):
        power = monitor / "power1_input"
        rails.append(Source("ina VIN", False, lambda: int(power.read_text()) / 1e6))
    return rails


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: int(millivolts.read_text()) * int(milliamperes.read_text()) / 1e6


def _nvml() -> list[Source]:
    try:
        import pynvml
    except ImportError:
        raise _UnreadableError("the package nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [_gpu(pynvml, index) for index in range(count)]
    except pynvml.NVMLError as error:
        raise _UnreadableError(f"NVML: {error}") from None


def _gpu(nvml: Any, index: int) -> Source:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = f"nvml {_decoded(nvml.nvmlDeviceGetName(handle))}"
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return Source(name, True, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    except nvml.NVMLError:  # older than Volta
        nvml.nvmlDeviceGetPowerUsage(handle)
        return Source(name, False, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)


def _decoded(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text


# --- measuring


class Meter:
    """Adds up energy over the blocks of one candidate."""

    def __init__(self, sensors: Sensors) -> None:
        self._sources = sensors.sources
        self.joules = {source.name: 0.0 for source in self._sources}
        self.seconds = 0.0

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        """Measure while the block runs."""
        counters = {source.name: source.read() for source in self._sources if source.counts}
        began = time.monotonic()
        with _sampling([source for source in self._sources if not source.counts]) as watts:
            yield
        seconds = time.monotonic() - began
        self.seconds += seconds
        for source in self._sources:
            if source.counts:
                self.joules[source.name] += _risen(counters[source.name], source.read(), source.wraps_at)
            else:
                samples = watts[source.name]
                self.joules[source.name] += seconds * sum(samples) / len(samples)

    def watts(self) -> dict[str, float]:
        """Mean power by source."""
        return {name: joules / self.seconds for name, joules in self.joules.items()} if self.seconds else {}


def _risen(before: float, after: float, wraps_at: float | None) -> float:
    return after - before + (wraps_at if wraps_at is not None and after < before else 0.0)


@contextlib.contextmanager
def _sampling(sources: list[Source]) -> Iterator[dict[str, list[float]]]:
    """Read powers now and then in a thread; at least once."""
    samples = {source.name: [source.read()] for source in sources}
    if not sources:
        yield samples
        return
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            for source in sources:
                samples[source.name].append(source.read())

    thread = threading.Thread(target=sample, name="n2q-power", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


# --- state


def state(sys: Path = SYS, proc: Path = Path("/proc")) -> dict[str, Any]:
    """Clocks, temperatures, power mode and load as they are now; what cannot be read is None or empty."""
    return {
        "load_average": _load(proc),
        "cpu_mhz": _cpu_mhz(sys, proc),
        "cpu_governor": _text(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "power_mode": _power_mode(),
        "temperatures_c": _temperatures(sys),
        "gpu": _gpu_states(),
    }


def _load(proc: Path) -> float | None:
    text = _text(proc / "loadavg")
    return float(text.split()[0]) if text else None


def _cpu_mhz(sys: Path, proc: Path) -> float | None:
    khz = _text(sys / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if khz:
        return int(khz) / 1000
    for line in (_text(proc / "cpuinfo") or "").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def _temperatures(sys: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((sys / "class" / "thermal").glob("thermal_zone*")):
        kind, value = _text(zone / "type"), _text(zone / "temp")
        if kind and value:
            found[kind] = int(value) / 1000
    return found


def _power_mode(status: Path = Path("/var/lib/nvpmodel/status")) -> str | None:
    """The Jetson's power mode, as `nvpmodel` left it."""
    return _text(status)


def _gpu_states() -> list[dict[str, Any]]:
    try:
        import pynvml as nvml
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        return [_gpu_state(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []


def _gpu_state(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:  # not every board tells everything
            return None

    limit = ask("nvmlDeviceGetEnforcedPowerLimit")
    return {
        "name": _decoded(ask("nvmlDeviceGetName") or ""),
        "sm_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "memory_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "temperature_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "power_limit_w": None if limit is None else limit / 1000,
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
