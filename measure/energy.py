"""Energy of policy calls, from the counters of the machine: Zeus where it finds one, else the battery's.

Joules are those of the whole package (socket, board) while nothing but the calls runs; those of the same time spent
idle are measured too and stand beside. A window too short for its counter is repeated, twice as long.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from measure.latency import BLOCK, Call
from trainers.tensors import FloatArray

POWERCAP = ("/sys/class/powercap/intel-rapl", "/zeus_sys/class/powercap/intel-rapl")
POWER_SUPPLY = Path("/sys/class/power_supply")
# A window must hold so many of a counter's steps.
STEPS_PER_WINDOW = 50
# RAPL moves every millisecond, by about 0.03 J at 30 W.
RAPL_STEP_JOULES = 0.03
# Batteries count in steps of up to 10 mWh.
BATTERY_STEP_JOULES = 36.0


class MeterUnavailable(Exception):
    """Why energy cannot be measured here, and what would make it measurable."""


class Meter(Protocol):
    """A counter of joules."""

    source: str
    step_joules: float

    def begin(self) -> None: ...

    def end(self) -> dict[str, float]:
        """Joules since `begin`, by part; under `total` those of the processor that runs the policy, with its memory.

        Raises NoMeterError where the counter went away.
        """
        ...


@dataclass(frozen=True)
class Energy:
    """Of policy calls in a closed loop, on one thread."""

    source: str
    calls: int
    window_s: float
    joules_per_1000_actions: float
    idle_watts: float
    joules_per_1000_actions_above_idle: float
    """Without the idle power over the time that the calls took."""
    parts_joules_per_1000_actions: dict[str, float]


class ZeusMeter:
    """CPU packages and DRAM (RAPL), systems on a chip and GPUs, through Zeus."""

    def __init__(self) -> None:
        """Raises NoMeterError where Zeus finds no counter for the processor that runs the policy."""
        from zeus.monitor import ZeusMonitor

        # Its pollers of counter overflows are processes of their own: open it after time and memory are measured.
        self.monitor = ZeusMonitor(cpu_indices=_packages())
        self.begin()
        parts = self.end()
        if "total" not in parts:
            raise MeterUnavailable(_why_not())
        _wait_for_children()
        self.source = "zeus: " + ", ".join(sorted(name for name in parts if name != "total"))
        self.step_joules = RAPL_STEP_JOULES

    def begin(self) -> None:
        self.monitor.begin_window("policy", sync_execution=False)

    def end(self) -> dict[str, float]:
        return parse_zeus(self.monitor.end_window("policy", sync_execution=False))


def parse_zeus(measurement: Any) -> dict[str, float]:
    """The parts of a Zeus measurement. Its own `total_energy` is that of the GPUs alone."""
    parts: dict[str, float] = {}
    for name, energies in (("cpu", measurement.cpu_energy), ("dram", measurement.dram_energy)):
        if energies:
            parts[name] = float(sum(energies.values()))
    if measurement.gpu_energy:
        parts["gpu"] = float(sum(measurement.gpu_energy.values()))
    if measurement.soc_energy is not None:
        fields = dataclasses.asdict(measurement.soc_energy)
        known = {name: value / 1000 for name, value in fields.items() if isinstance(value, int | float)}
        parts |= {f"soc_{name.removesuffix('_mj')}": joules for name, joules in known.items()}
        # Jetson counts its board; Apple's cores and memory are counted apart.
        own = [known[name] for name in ("cpu_total_mj", "dram_mj") if name in known]
        if own or "total_energy_mj" in known:
            parts["total"] = known.get("total_energy_mj", sum(own))
    if "cpu" in parts:
        parts["total"] = parts["cpu"] + parts.get("dram", 0.0)
    return parts


class BatteryMeter:
    """The charge of a discharging battery, as the operating system reports it. The whole machine is on it."""

    step_joules = BATTERY_STEP_JOULES

    def __init__(self, folder: Path = POWER_SUPPLY) -> None:
        """Raises NoMeterError where there is no battery or it is not discharging."""
        self.batteries = [
            path
            for path in sorted(folder.glob("*"))
            # Of scope Device are those of mice and keyboards.
            if _read(path / "type") == "Battery" and _read(path / "scope") != "Device"
        ]
        if not self.batteries:
            raise MeterUnavailable("there is no battery")
        self.source = "battery: " + ", ".join(battery.name for battery in self.batteries)
        self._joules()

    def begin(self) -> None:
        self._began = self._joules()

    def end(self) -> dict[str, float]:
        return {"total": self._began - self._joules()}

    def _joules(self) -> float:
        states = [_read(battery / "status") for battery in self.batteries]
        # Of two batteries one waits while the other discharges.
        if "Discharging" not in states or "Charging" in states:
            raise MeterUnavailable(
                f"{self.source} is not discharging but {', '.join(map(str, states))}: unplug the charger"
            )
        return sum(_stored_joules(battery) for battery in self.batteries)


def _stored_joules(battery: Path) -> float:
    micro_watt_hours = _read(battery / "energy_now")
    if micro_watt_hours is not None:
        return float(micro_watt_hours) * 3600 / 1e6
    charge = _read(battery / "charge_now")
    voltage = _read(battery / "voltage_min_design")
    if charge is None or voltage is None:
        raise MeterUnavailable(f"the battery {battery.name} reports neither energy_now nor charge_now")
    return float(charge) * 3600 / 1e6 * float(voltage) / 1e6


def open_meter(power_supply: Path = POWER_SUPPLY) -> Meter:
    """The best counter of this machine. Raises NoMeterError with the reason and the remedy."""
    try:
        return ZeusMeter()
    except MeterUnavailable as error:
        try:
            return BatteryMeter(power_supply)
        except MeterUnavailable as battery:
            raise MeterUnavailable(f"{error}; {battery}") from None


def measure_energy(
    calls: Mapping[str, Call],
    observations: FloatArray,
    meter: Meter,
    *,
    window_s: float,
    max_window_s: float,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Energy]:
    """Energy of every call on observations [n, obs_dim], in windows taken by turns; the median of the rounds.

    Raises NoMeterError where a window of `max_window_s` seconds is too short for the counter.
    """
    rows = [np.ascontiguousarray(row[None]) for row in observations]
    for call in calls.values():
        for row in rows[:BLOCK]:
            call(row)

    def idle(seconds: float) -> int:
        sleep(seconds)
        return 1

    def busy(call: Call) -> Callable[[float], int]:
        def work(seconds: float) -> int:
            began = clock()
            done = 0
            while clock() - began < seconds:
                for k in range(BLOCK):
                    call(rows[(done + k) % len(rows)])
                done += BLOCK
            return done

        return work

    found: dict[str, list[tuple[int, float, dict[str, float], float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        _, idle_s, joules = _window(meter, idle, window_s, max_window_s, clock)
        for name, call in calls.items():
            done, seconds, parts = _window(meter, busy(call), window_s, max_window_s, clock)
            found[name].append((done, seconds, parts, joules["total"] / idle_s))
    return {name: _summary(meter.source, windows) for name, windows in found.items()}


def _window(
    meter: Meter, work: Callable[[float], int], seconds: float, max_window_s: float, clock: Callable[[], float]
) -> tuple[int, float, dict[str, float]]:
    """What `work` did, the seconds it took and its joules, over a window long enough for the counter."""
    while True:
        meter.begin()
        began = clock()
        done = work(seconds)
        parts = meter.end()
        elapsed = clock() - began
        if parts["total"] >= STEPS_PER_WINDOW * meter.step_joules:
            return done, elapsed, parts
        if seconds >= max_window_s:
            raise MeterUnavailable(
                f"{meter.source}: only {parts['total']:.3g} J in {elapsed:.0f} s, too few for its steps of "
                f"{meter.step_joules:g} J; allow longer windows (energy.max_window_s)"
            )
        seconds = min(2 * seconds, max_window_s)


def _summary(source: str, windows: list[tuple[int, float, dict[str, float], float]]) -> Energy:
    def median(values: list[float]) -> float:
        return float(np.median(values))

    def per_1000_actions(part: str) -> float:
        return median([1000 * parts[part] / done for done, _, parts, _ in windows])

    return Energy(
        source=source,
        calls=sum(done for done, *_ in windows),
        window_s=median([seconds for _, seconds, *_ in windows]),
        joules_per_1000_actions=per_1000_actions("total"),
        idle_watts=median([idle for *_, idle in windows]),
        joules_per_1000_actions_above_idle=median(
            [1000 * (parts["total"] - idle * seconds) / done for done, seconds, parts, idle in windows]
        ),
        parts_joules_per_1000_actions={part: per_1000_actions(part) for part in windows[0][2] if part != "total"},
    )


def _packages() -> list[int] | None:
    """Places of the processor packages among RAPL's zones: a zone `psys` beside them holds them once more."""
    for folder in POWERCAP:
        zones = sorted(Path(folder).glob("intel-rapl:*"), key=lambda path: int(path.name.split(":")[1]))
        names = [_read(zone / "name") or "" for zone in zones]
        packages = [i for i, name in enumerate(names) if name.startswith("package")]
        if packages:
            return packages
    return None


def _wait_for_children() -> None:
    """Until the pollers have started: what they import then would be counted with the policy."""
    children = psutil.Process().children()
    before = -1.0
    for _ in range(60):
        spent = sum(sum(child.cpu_times()[:2]) for child in children if child.is_running())
        if spent - before < 0.05:
            return
        before = spent
        time.sleep(0.5)


def _why_not() -> str:
    for folder in POWERCAP:
        counters = sorted(Path(folder).glob("intel-rapl:*/energy_uj"))
        unreadable = [path for path in counters if not os.access(path, os.R_OK)]
        if unreadable:
            return (
                f"{unreadable[0]} is not readable: run as root, `chmod a+r` it, or start zeusd and set ZEUSD_SOCK_PATH"
            )
    return (
        f"no counter of the processor's energy: {POWERCAP[0]} is missing (in a container mount it to {POWERCAP[1]}; "
        "virtual machines rarely have one)"
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
