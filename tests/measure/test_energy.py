"""Energy: arithmetic with counting fakes, the real Zeus on a simulated powercap tree, a simulated battery."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from measure.energy import (
    POWERCAP,
    STEPS_PER_WINDOW,
    BatteryMeter,
    Energy,
    MeterUnavailable,
    measure_energy,
    open_meter,
    parse_zeus,
)
from measure.latency import BLOCK

STATES = np.zeros((7, 3), np.float32)


class World:
    """A clock and a counter: 10 W, and 30 W while calls run, each of which takes a millisecond."""

    source = "fake"
    step_joules = 0.001

    def __init__(self) -> None:
        self.now = self.joules = self.began = 0.0
        self.windows: list[float] = []

    def clock(self) -> float:
        return self.now

    def pass_time(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self.joules += seconds * watts

    def sleep(self, seconds: float) -> None:
        self.pass_time(seconds, 10.0)

    def call(self, obs: np.ndarray) -> None:
        self.pass_time(0.001, 30.0)

    def begin(self) -> None:
        self.began, self._at = self.joules, self.now

    def end(self) -> dict[str, float]:
        self.windows.append(self.now - self._at)
        used = self.joules - self.began
        return {"cpu": 0.75 * used, "dram": 0.25 * used, "total": used}


def measured(world: World, **changes: float) -> dict[str, Energy]:
    settings: dict[str, Any] = {"window_s": 2.0, "max_window_s": 60.0, "rounds": 3} | changes
    calls = {"fp32": world.call, "int8": world.call}
    return measure_energy(calls, STATES, world, clock=world.clock, sleep=world.sleep, **settings)


def test_joules_per_action_with_and_without_the_idle_power() -> None:
    found = measured(World())["int8"]
    assert found.joules_per_1000_actions == pytest.approx(30.0)
    assert found.idle_watts == pytest.approx(10.0)
    assert found.joules_per_1000_actions_above_idle == pytest.approx(20.0)
    assert found.parts_joules_per_1000_actions == pytest.approx({"cpu": 22.5, "dram": 7.5})
    assert 6000 <= found.calls <= 6000 + 3 * BLOCK
    assert found.window_s == pytest.approx(2.0, abs=0.21)
    assert found.source == "fake"
    assert found.calls % BLOCK == 0


def test_a_window_grows_until_the_counter_can_resolve_it() -> None:
    world = World()
    world.step_joules = 1.0  # 50 J are needed: 2 s of 10 W are too few, and of 30 W at first glance enough
    found = measured(world, rounds=1)["fp32"]
    assert world.windows[:3] == pytest.approx([2.0, 4.0, 8.0])
    assert found.idle_watts == pytest.approx(10.0)
    assert found.joules_per_1000_actions == pytest.approx(30.0)


def test_a_counter_that_is_too_coarse_is_given_up() -> None:
    world = World()
    world.step_joules = 100.0
    with pytest.raises(MeterUnavailable, match=r"fake: only 600 J in 60 s, too few for its steps of 100 J"):
        measured(world)


@pytest.mark.parametrize(
    ("measurement", "expected"),
    [
        ({"cpu_energy": {0: 3.0, 1: 4.0}}, {"cpu": 7.0, "total": 7.0}),
        (
            {"cpu_energy": {0: 3.0}, "dram_energy": {0: 0.5}, "gpu_energy": {0: 90.0, 1: 1.0}},
            {"cpu": 3.0, "dram": 0.5, "gpu": 91.0, "total": 3.5},
        ),
        ({"gpu_energy": {0: 90.0}}, {"gpu": 90.0}),
        ({}, {}),
    ],
)
def test_the_total_is_that_of_the_processor(measurement: dict[str, Any], expected: dict[str, float]) -> None:
    """Zeus's own total is that of the GPUs, which do not run the policy."""
    from zeus.monitor.energy import Measurement

    whole = Measurement(time=1.0, **({"gpu_energy": {}} | measurement))
    assert parse_zeus(whole) == pytest.approx(expected)


def test_systems_on_a_chip() -> None:
    from zeus.device.soc.apple import AppleSiliconMeasurement
    from zeus.device.soc.jetson import JetsonMeasurement

    def parts(soc: object) -> dict[str, float]:
        return parse_zeus(SimpleNamespace(cpu_energy=None, dram_energy=None, gpu_energy={}, soc_energy=soc))

    apple = parts(AppleSiliconMeasurement(cpu_total_mj=4000, dram_mj=500, gpu_mj=70))
    assert (apple["total"], apple["soc_gpu"]) == (4.5, 0.07)
    jetson = parts(JetsonMeasurement(cpu_energy_mj=2000.0, gpu_energy_mj=100.0, total_energy_mj=5000.0))
    assert (jetson["total"], jetson["soc_cpu_energy"]) == (5.0, 2.0)


def battery(folder: Path, **files: object) -> Path:
    own = folder / "BAT0"
    own.mkdir(exist_ok=True)
    for name, value in ({"type": "Battery", "status": "Discharging"} | files).items():
        (own / name).write_text(f"{value}\n")
    return folder


def test_a_battery_counts_what_it_loses(tmp_path: Path) -> None:
    (tmp_path / "AC").mkdir()
    (tmp_path / "AC" / "type").write_text("Mains\n")
    meter = BatteryMeter(battery(tmp_path, energy_now=40_000_000))
    meter.begin()
    battery(tmp_path, energy_now=39_950_000)  # 50 mWh less
    assert meter.end() == {"total": pytest.approx(180.0)}
    assert meter.source == "battery: BAT0"


def test_a_battery_that_counts_charge(tmp_path: Path) -> None:
    meter = BatteryMeter(battery(tmp_path, charge_now=3_000_000, voltage_min_design=11_400_000))
    meter.begin()
    battery(tmp_path, charge_now=2_990_000)  # 10 mAh at 11.4 V
    assert meter.end() == {"total": pytest.approx(410.4)}


def test_a_battery_that_cannot_tell(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable, match="there is no battery"):
        BatteryMeter(tmp_path)
    with pytest.raises(MeterUnavailable, match="BAT0 reports neither energy_now nor charge_now"):
        BatteryMeter(battery(tmp_path))
    meter = BatteryMeter(battery(tmp_path, energy_now=1))
    meter.begin()
    battery(tmp_path, status="Charging")
    with pytest.raises(MeterUnavailable, match="is not discharging but Charging: unplug"):
        meter.end()


@pytest.mark.skipif(any(Path(folder).exists() for folder in POWERCAP), reason="this machine has a real counter")
def test_without_any_meter_the_reason_and_the_remedy_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        MeterUnavailable, match=rf"{POWERCAP[0]} is missing .*mount it to {POWERCAP[1]}.*; there is no batt"
    ):
        open_meter(tmp_path)


SIMULATION = '''
import json, os, threading, time
from pathlib import Path

ROOT = Path("{root}")
WRAP = 60_000_000

class Player(threading.Thread):
    """20 W of the package, 35 W while calls run; DRAM a fifth of it; psys is both and more. 60 J are an overflow."""
    def __init__(self):
        super().__init__(daemon=True)
        self.files, self.joules, self.last_call, self.running = {{}}, 0.0, 0.0, False
        zones = {{
            "psys": "intel-rapl:0",
            "package-0": "intel-rapl:1",
            "core": "intel-rapl:1/intel-rapl:1:0",
            "dram": "intel-rapl:1/intel-rapl:1:1",
        }}
        for name, zone in zones.items():
            folder = ROOT / zone
            folder.mkdir(parents=True)
            (folder / "name").write_text(name)
            (folder / "max_energy_range_uj").write_text(str(WRAP))
            self.files[name] = os.open(folder / "energy_uj", os.O_CREAT | os.O_WRONLY)
        self.write()
    def write(self):
        for name, share in (("psys", 1.9), ("package-0", 1.0), ("core", 0.5), ("dram", 0.2)):
            os.pwrite(self.files[name], b"%012d" % (int(self.joules * share * 1e6) % WRAP), 0)
    def run(self):
        before = time.monotonic()
        while True:
            time.sleep(0.001)
            now = time.monotonic()
            if self.running:
                self.joules += (now - before) * (35.0 if now - self.last_call < 0.02 else 20.0)
                self.write()
            before = now

def main():
    import numpy as np
    from measure.energy import measure_energy, open_meter
    player = Player()
    player.start()
    meter = open_meter(Path("/nowhere"))
    player.running = True
    def call(obs):
        player.last_call = time.monotonic()
        time.sleep(0.001)
    states = np.zeros((3, 2), np.float32)
    energy = measure_energy({{"policy": call}}, states, meter, window_s=2.0, max_window_s=2.0, rounds=1)["policy"]
    watts = energy.joules_per_1000_actions * energy.calls / 1000 / energy.window_s
    print(json.dumps({{"source": energy.source, "watts": watts, "idle": energy.idle_watts, "joules": player.joules,
        "parts": energy.parts_joules_per_1000_actions, "total": energy.joules_per_1000_actions}}))

if __name__ == "__main__":
    main()
'''


@pytest.fixture
def private_mount() -> Iterator[Path]:
    """A folder at the path Zeus looks into, over which a private namespace can mount a tree that nobody else sees."""
    root = Path(POWERCAP[1]).parents[2]
    if any(Path(folder).exists() for folder in POWERCAP):
        pytest.skip("this machine has a real counter")
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, for a private mount namespace")
    try:
        made = not root.exists()
        root.mkdir(exist_ok=True)
    except OSError as error:
        pytest.skip(f"{root} cannot be made: {error.strerror}")
    try:
        if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", root], capture_output=True).returncode:
            pytest.skip("private mounts are not allowed here")
        yield root
    finally:
        if made:
            root.rmdir()


def test_zeus_reads_a_simulated_powercap_tree_with_overflows(private_mount: Path, tmp_path: Path) -> None:
    import json

    script = tmp_path / "simulation.py"
    script.write_text(SIMULATION.format(root=POWERCAP[1]))
    inner = f"mount -t tmpfs none {private_mount} && exec {sys.executable} {script}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inner]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["source"] == "zeus: cpu, dram"
    assert found["joules"] > 100  # the package's counter has overflowed
    assert found["watts"] == pytest.approx(1.2 * 35, rel=0.1)
    assert found["idle"] == pytest.approx(1.2 * 20, rel=0.1)
    assert found["parts"]["dram"] == pytest.approx(0.2 * found["parts"]["cpu"], rel=0.05)
    assert not Path(POWERCAP[1]).exists()


def test_windows_hold_many_steps_of_rapl() -> None:
    """2 s at 10 W are 20 J, and 50 steps of a millisecond at 30 W are 1.5 J."""
    from measure.energy import RAPL_STEP_JOULES

    assert STEPS_PER_WINDOW * RAPL_STEP_JOULES < 2 * 10
