"""rlc.measure and rlc.evaluate on real runs: the trained policies, as finished runs in a folder of their own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from compression.artifact import ArtifactError
from compression.native.toolchain import NO_COMPILER, find_compiler
from measure import video
from measure.energy import MeterUnavailable
from measure.machine import machine, one_pinned_thread
from measure.returns import Returns, summary
from rlc import measure
from rlc.cli import configured
from rlc.config.commands import parse_measure, shorter_than
from rlc.config.plan import make_plan
from rlc.datafiles import CONF
from rlc.evaluate import evaluate_run
from rlc.pipeline import measurement
from rlc.pipeline.job import run_job
from rlc.pipeline.tracking import Tracker
from rlc.runs.files import OUTPUTS
from rlc.runs.find import finished_runs
from rlc.runs.records import Measurement
from rlc.runs.run import Run
from tests.helpers import POLICIES, as_run, wandb_holds
from trainers.envs.make import spec_of
from trainers.errors import UserError

QUIET = {"mode": "disabled", "project": "rlc", "entity": None}
FEW = ["study=fixtures", "episodes=2", "num_copies=4"]
DERIVED = (
    "+algo=trpo +compress=ptdq env=halfcheetah total_steps=300000 eval.evaluations=10 study=fixtures "
    "wandb.mode=disabled"
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """An fp32 run and its PTDQ run."""
    monkeypatch.chdir(tmp_path)
    fp32 = as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET)
    (job,) = make_plan(DERIVED.split()).jobs
    run_job(job)
    derived = Run(job, 0)
    assert derived.finished(), derived.error()
    return [fp32, derived]


class Steady:
    """Twenty watts for ever."""

    source = "fake"
    step_joules = 1e-9

    def begin(self) -> None:
        import time

        self.began = time.perf_counter()

    def end(self) -> dict[str, float]:
        import time

        joules = 20 * (time.perf_counter() - self.began)
        return {"cpu": joules, "total": joules}


def no_meter() -> None:
    raise MeterUnavailable("no counter here; plug one in")


def number(measurement: Measurement, name: str) -> float:
    """The value `section.name` of a measurement, which must be there."""
    section, _, field = name.partition(".")
    value = measurement.value(section, field)
    assert value is not None, name
    return value


def check_native(measured: Measurement) -> None:
    """A policy that has a C form was timed as C, or no compiler was there."""
    if find_compiler() is None:
        assert measured.infer.native_p50_us is None
        assert measured.infer.native_reason == measured.mem.native_reason == NO_COMPILER
        return
    assert measured.infer.native_reason is None
    assert measured.infer.native_calls == 10_000
    p50 = number(measured, "infer.native_p50_us")
    assert p50 <= number(measured, "infer.native_p95_us") <= number(measured, "infer.native_p99_us")
    assert 0 < p50 < number(measured, "infer.onnx_run_p50_us")
    if measured.mem.native_reason is None:
        constants = number(measured, "mem.native_constant_bytes")
        assert number(measured, "mem.native_bytes") == number(measured, "mem.native_code_bytes") + constants
        assert constants >= number(measured, "mem.weight_bytes")
        assert number(measured, "mem.native_stack_bytes") > 0


def test_everything_is_measured_and_what_cannot_be_says_why(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measurement, "open_meter", no_meter)
    results = [run.result() for run in runs]
    measure.measure(FEW)
    fp32, int8 = (run.measurement() or Measurement() for run in runs)
    for measured in (fp32, int8):
        assert measured.energy.joules_per_1000_actions is None
        assert measured.energy.missing_reason == "no counter here; plug one in"
        assert measured.infer.onnx_run_calls == 10_000
        assert measured.short is not None
        assert measured.short[0] == "episodes=2"
        p50 = number(measured, "infer.onnx_run_p50_us")
        assert 0 < number(measured, "infer.floor_onnx_run_p50_us") < p50
        assert p50 <= number(measured, "infer.onnx_run_p95_us") <= number(measured, "infer.onnx_run_p99_us")
        assert (measured.machine or {})["threads"] == 1
        assert measured.paper.episode_steps == 1000
        assert number(measured, "paper.process_rss_bytes") > number(measured, "mem.bytes_per_copy") > 0
        assert number(measured, "eval.early_end_share") == 0
        assert (measured.load or {})["busy_percent"] >= 0
    assert number(fp32, "infer.torch_eager_p50_us") > number(fp32, "infer.onnx_run_p50_us")
    assert int8.infer.torch_eager_p50_us is None
    assert "emulates" in (int8.infer.torch_eager_reason or "")
    assert number(fp32, "eval.return_difference_to_fp32_mean") == 0
    difference = number(int8, "eval.return_mean") - number(fp32, "eval.return_mean")
    assert number(int8, "eval.return_difference_to_fp32_mean") == pytest.approx(difference)
    assert number(int8, "mem.weight_bytes") < number(fp32, "mem.weight_bytes")
    assert int8.infer.native_p50_us is None
    for reason in (int8.infer.native_reason, int8.mem.native_reason):
        assert "ptdq takes its ranges from each observation" in (reason or "")
    check_native(fp32)
    assert [run.result() for run in runs] == results
    shown = capsys.readouterr()
    assert "no counter here" in shown.out
    assert "no native time: ptdq takes its ranges from each observation" in shown.out
    assert "energy is not measured: no counter here; plug one in" in shown.err


def test_measuring_again_replaces_the_measurement_and_keeps_the_choice(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "open_meter", Steady)
    only = [*FEW, f"label={runs[1].label}", "energy.window_s=0.05", "energy.rounds=2"]
    measure.measure(only)
    assert runs[0].measurement() is None
    first = runs[1].measurement() or Measurement()
    assert first.energy.source == "fake"
    assert first.energy.joules_per_episode == pytest.approx(first.energy.joules_per_1000_actions)
    assert first.energy.idle_watts == pytest.approx(20, rel=0.2)
    # fp32 is not measured, but played, from the start states of its own settings.
    fp32 = np.mean(runs[0].finished_result().episode_returns[:2])
    difference = number(first, "eval.return_difference_to_fp32_mean")
    assert number(first, "eval.return_mean") - difference == pytest.approx(fp32)
    monkeypatch.setattr(measurement, "open_meter", no_meter)
    measure.measure(only)
    assert (runs[1].measurement() or Measurement()).energy.joules_per_1000_actions is None


def test_figures_reach_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET | {"mode": "offline"})
    monkeypatch.setattr(measurement, "open_meter", no_meter)
    measure.measure(FEW)
    assert wandb_holds(run.path, b"infer", b"onnx_run_p50_us", b"mem", b"bytes_per_copy")


def test_what_is_less_than_the_defaults_is_named() -> None:
    defaults = parse_measure(configured([], CONF / "measure.yaml"))
    assert shorter_than(defaults, defaults) == []
    given = parse_measure(configured(["calls=400", "energy.rounds=1", "episodes=50"], CONF / "measure.yaml"))
    assert shorter_than(given, defaults) == ["calls=400", "energy.rounds=1"]


def test_what_is_said_now_counts_for_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET | {"mode": "offline"})
    assert Tracker(run, "disabled").wandb_run is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert parse_measure(configured([], CONF / "measure.yaml")).wandb.mode == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    assert parse_measure(configured([], CONF / "measure.yaml")).wandb.mode == "as_trained"


def test_a_missing_login_is_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET | {"mode": "online"})
    Tracker(run)
    told = capsys.readouterr().err
    assert "W&B failed, the run goes on without it: it has no login here that it takes; put the key" in told
    assert "wandb login" not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study=nowhere"], "study=nowhere: there is no finished run in outputs/nowhere"),
        (
            ["study=fixtures", "env=Ant-v4"],
            "env=Ant-v4: no finished run is called Ant-v4; there are: HalfCheetah-v4",
        ),
        (["cals=3"], "cals=3: no such key; did you mean calls?"),
        (["energy.windows=3"], "energy.windows=3: no such key; did you mean window_s?"),
        (["energy=3"], "energy=3: no such key"),
        (["calls=100"], "calls=100: must be a multiple of 200"),
        (["calls=many"], "calls=many: must be a valid integer"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET)
    with pytest.raises(UserError, match=words):
        measure.measure(arguments)


def test_without_a_compiler_native_is_null_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET)
    monkeypatch.setattr(measurement, "open_meter", no_meter)
    monkeypatch.setattr("compression.native.toolchain.shutil.which", lambda name: None)
    measure.measure(FEW)
    own = (run.measurement() or Measurement()).fields()
    assert own["infer"]["native_p50_us"] is None
    assert own["infer"]["native_reason"] == own["mem"]["native_reason"] == NO_COMPILER
    assert own["infer"]["onnx_run_p50_us"] > 0


def test_two_measurements_do_not_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET)
    with FileLock(OUTPUTS / ".measure.lock"), pytest.raises(UserError, match="is running in this directory"):
        measure.measure(FEW)


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(measure, "load", lambda: {"busy_percent": 63.0, "load_average_1min": 1.0})
    assert measure._quiet()["busy_percent"] == 63.0
    assert "the machine is busy (63 % of its cores)" in capsys.readouterr().err


def test_the_machine_is_described() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 1e8
    with one_pinned_thread() as core:
        assert core is None or core >= 0


def test_summary_of_episodes() -> None:
    fp32 = Returns((10.0, 20.0, 30.0, 40.0), (5, 5, 5, 5))
    own = Returns((9.0, 19.0, 29.0, 3.0), (5, 5, 5, 2))
    found = summary(own, 5, fp32)
    assert (found["return_median"], found["early_end_share"]) == (14.0, 0.25)
    assert found["return_difference_to_fp32_mean"] == -10.0
    assert found["return_difference_to_fp32_low"] < -10 < found["return_difference_to_fp32_high"] < 0
    assert summary(own, 5, None)["return_difference_to_fp32_mean"] is None


def test_evaluate_shows_a_policy_beside_fp32(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_run([f"run={runs[1].path}", "episodes=2"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[1] for line in lines if line.strip().startswith("HalfCheetah")]
    assert names == ["fp32", "ptdq", "random", "zero"]
    evaluate_run([f"run={POLICIES / 'ppo-hopper'}", "episodes=2"])
    assert "Hopper-v4" in capsys.readouterr().out


def test_evaluate_refuses_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run: none given"):
        evaluate_run([])
    with pytest.raises(ArtifactError, match="is no artifact"):
        evaluate_run([f"run={tmp_path}"])


def test_without_a_renderer_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(UserError, match="no video: MUJOCO_GL=nonsense cannot render Hopper-v4 here"):
        video.choose_backend(spec_of("Hopper-v4"))


def test_a_film_shows_policies_side_by_side(tmp_path: Path) -> None:
    """In a process of its own: it keeps the renderer that it chose."""
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from measure import video\nfrom trainers.envs.make import spec_of\n"
        "from trainers.errors import UserError\n"
        "try:\n    video.choose_backend(spec_of('Hopper-v4'))\n"
        "except UserError as error:\n    sys.exit(str(error))\n"
        "still, push = np.zeros(3, 'float32'), np.ones(3, 'float32')\n"
        "video.record_video(Path('film.mp4'), spec_of('Hopper-v4'), [lambda o: push, lambda o: push], 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "neither EGL nor OSMesa" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    import imageio.v3 as iio

    first = iio.imread(tmp_path / "film.mp4", index=0)
    assert first.shape == (480, 960, 3)
    assert np.abs(first[:, :480].astype(int) - first[:, 480:]).mean() < 2
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_stored_runs_leaves_out_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = as_run("trpo-halfcheetah", study="fixtures", wandb=QUIET)
    other = as_run("ppo-hopper", study="fixtures", wandb=QUIET)
    (other.path / "config.yaml").write_text("settings: {}\n")
    assert [found.path for found in finished_runs("fixtures")] == [run.path]
    assert "left out" in capsys.readouterr().err
    (run.artifact / "policy.onnx").write_bytes(b"")
    assert finished_runs("fixtures") == []
    assert f"left out: {run.path}: a file of it is missing or damaged" in capsys.readouterr().err
    status: dict[str, Any] = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(status | {"state": "running"}))
    assert finished_runs("fixtures") == []
