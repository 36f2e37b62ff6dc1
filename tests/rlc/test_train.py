"""The main job end to end through the command people type: real MuJoCo, ONNX Runtime and W&B (offline)."""

import csv
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.artifact import save_artifact
from compression.runtime import OnnxPolicy, optimized_operators
from rlc.config.plan import make_plan
from rlc.pipeline import protocol
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import wandb_holds
from trainers.envs.make import spec_of
from trainers.registry import AGENTS

QUICK = "+algo=sac env=hopper total_steps=400 algo.learning_starts=200 algo.hidden=[32,32] algo.batch_size=32"
FEW = "eval.episodes=2 eval.evaluations=2"


def rlc_train(arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlc.train", *arguments.split()]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def results(cwd: Path) -> dict[tuple[str, int], tuple[Path, dict[str, Any]]]:
    found = {}
    for path in cwd.glob("outputs/default/*/*/*/seed*/result.json"):
        result = json.loads(path.read_text())
        found[result["compress"], result["seed"]] = (path.parent, result)
    return found


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("grid")
    done = rlc_train(f"{QUICK} {FEW} +compress=ptdq,qat seed=0,1 -m", cwd)
    assert "6 runs, 0 of them finished already" in done.stdout
    assert done.stderr == ""
    return cwd


def test_a_grid_leaves_finished_runs_of_all_and_of_their_baselines(grid: Path) -> None:
    assert set(results(grid)) == {(c, s) for c in ("fp32", "qat", "ptdq") for s in (0, 1)}
    for folder, result in results(grid).values():
        status = json.loads((folder / "status.json").read_text())
        assert (status["state"], status["error"], status["identity"]) == ("done", None, result["identity"])
        assert len(result["episode_returns"]) == 2
        assert result["return_mean"] == pytest.approx(np.mean(result["episode_returns"]))
        assert result["random_return_mean"] > 0
        assert result["zero_return_mean"] > 0
        assert result["onnx_file_bytes"] == (folder / "artifact" / "policy.onnx").stat().st_size
        assert result["provenance"]["versions"]["torch"]
        assert wandb_holds(folder, b"policy.safetensors")


def test_training_is_recorded_and_weights_moved(grid: Path) -> None:
    for (method, _), (folder, result) in results(grid).items():
        if method == "ptdq":
            assert result["train_seconds"] is None
            assert "derived from outputs/default/Hopper-v4/sac/fp32~" in result["train_seconds_reason"]
            continue
        assert result["train_seconds"] > 0
        assert result["train_cpu_seconds"] > 0
        assert result["initial_weights_sha256"] != result["final_weights_sha256"]
        assert (folder / "agent.safetensors").is_file()
        rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
        steps = [int(row["global_step"]) for row in rows]
        assert steps == sorted(set(steps))
        assert steps[-1] == 400
        assert float(rows[-1]["eval/return_mean"]) == pytest.approx(result["return_mean"], rel=1e-6)
        assert float(rows[-1]["losses/critic"]) > 0


def test_seeds_differ(grid: Path) -> None:
    done = results(grid)
    for method in ("fp32", "qat"):
        for key in ("first_observations_sha256", "initial_weights_sha256", "final_weights_sha256"):
            assert done[method, 0][1][key] != done[method, 1][1][key]


def test_artifacts_load_alone_and_int8_runs_on_integers(grid: Path) -> None:
    for (method, _), (folder, result) in results(grid).items():
        path = folder / "artifact" / "policy.onnx"
        code = (
            "import onnxruntime, numpy, sys\n"
            f"s = onnxruntime.InferenceSession({str(path)!r})\n"
            "print(s.run(None, {'observation': numpy.zeros((1, 11), 'float32')})[0].shape)\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "(1, 3)\n"
        kernel = {"fp32": "FusedGemm", "qat": "QGemm", "ptdq": "DynamicQuantizeMatMul"}[method]
        assert optimized_operators(path.read_bytes()).count(kernel) == 3
        assert result["parity"]["states"] > 0
        contract = json.loads((folder / "artifact" / "policy.json").read_text())
        assert contract["environment"]["id"] == "Hopper-v4"
        assert contract["compression"]["method"] == method


def test_int8_is_compared_with_the_fp32_policy_of_the_same_seed(grid: Path) -> None:
    done = results(grid)
    for seed in (0, 1):
        fp32 = done["fp32", seed][1]
        ptdq = done["ptdq", seed][1]
        assert ptdq["fp32_return_mean"] == fp32["return_mean"] == fp32["fp32_return_mean"]
        assert ptdq["random_return_mean"] == fp32["random_return_mean"]
        assert ptdq["training_identity"] == fp32["training_identity"]
        assert ptdq["onnx_file_bytes"] < fp32["onnx_file_bytes"]
        assert done["qat", seed][1]["fp32_return_mean"] == fp32["return_mean"]


def test_a_run_that_ended_before_its_fp32_run_is_compared_later(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(grid / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    folder, whole = results(tmp_path)["qat", 0]
    missing = {"fp32_return_mean": None, "fp32_return_std": None, "fp32_missing_reason": "was not there"}
    (folder / "result.json").write_text(json.dumps(whole | missing))
    rlc_train(f"{QUICK} {FEW} +compress=qat seed=0", tmp_path)
    assert results(tmp_path)["qat", 0][1] == whole


def test_the_same_command_again_trains_nothing_and_shows_the_table(grid: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in grid.rglob("*") if path.is_file()}
    done = rlc_train(f"{QUICK} {FEW} +compress=ptdq,qat seed=0,1 -m", grid)
    assert "6 runs, 6 of them finished already" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in grid.rglob("*") if path.is_file()}
    for text in ("sac ptdq ", "sac qat ", "random action", "zero action", "file KB"):
        assert text in done.stdout


def test_nothing_falls_outside_outputs(grid: Path) -> None:
    assert [path.name for path in grid.iterdir()] == ["outputs"]
    assert {path.name for path in (grid / "outputs").iterdir()} == {"default", ".multirun"}


def test_lockstep_equals_alone(grid: Path, tmp_path: Path) -> None:
    rlc_train(f"{QUICK} {FEW} +compress=qat seed=[1,0] wandb.mode=disabled", tmp_path)
    together = results(tmp_path)
    for seed in (0, 1):
        alone, pack = results(grid)["qat", seed], together["qat", seed]
        assert pack[1]["lockstep_seeds"] == 2
        assert alone[1]["final_weights_sha256"] == pack[1]["final_weights_sha256"]
        assert alone[1]["episode_returns"] == pack[1]["episode_returns"]
        for name in ("policy.onnx", "policy.safetensors"):
            assert (alone[0] / "artifact" / name).read_bytes() == (pack[0] / "artifact" / name).read_bytes()
        assert not list(pack[0].glob("wandb"))


def test_only_missing_seeds_of_a_pack_are_trained(tmp_path: Path) -> None:
    settings = f"{QUICK} eval.episodes=1 eval.evaluations=0 wandb.mode=disabled"
    rlc_train(f"{settings} seed=1", tmp_path)
    kept = (results(tmp_path)["fp32", 1][0] / "result.json").stat().st_mtime_ns
    done = rlc_train(f"{settings} seed=[0,1]", tmp_path)
    assert "2 runs, 1 of them finished already" in done.stdout
    assert (results(tmp_path)["fp32", 1][0] / "result.json").stat().st_mtime_ns == kept
    assert results(tmp_path)["fp32", 0][1]["lockstep_seeds"] == 1


def test_overwrite_does_it_again_and_keeps_the_old_run(tmp_path: Path) -> None:
    settings = f"{QUICK} eval.episodes=1 eval.evaluations=0 wandb.mode=disabled"
    rlc_train(settings, tmp_path)
    folder, first = results(tmp_path)["fp32", 0]
    rlc_train(f"{settings} overwrite=true", tmp_path)
    again = json.loads((folder / "result.json").read_text())
    old = json.loads((folder.parent / "seed0.old-1" / "result.json").read_text())
    assert old == first
    assert again["final_weights_sha256"] == first["final_weights_sha256"]


def test_bad_input_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    for arguments in ("", "+algo=sac algo.gamma=2", "+algo=sac +algo=sac", "+algo=sac total_steps=abc -m"):
        done = rlc_train(arguments, tmp_path, expect=2)
        assert done.stdout == ""
        assert done.stderr.startswith("rlc: ")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_made_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    done = rlc_train("+algo=sac", tmp_path, expect=2)
    assert done.stderr.count("\n") == 1
    assert "outputs" in done.stderr


def test_a_failing_export_costs_neither_the_training_nor_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds in lockstep: the export of one fails. The next try exports what was trained."""
    monkeypatch.chdir(tmp_path)
    real = save_artifact

    def fail_for_seed_0(folder: Path, *args: Any, **kwargs: Any) -> Any:
        if "seed0" in str(folder):
            raise OSError("no space left on device")
        return real(folder, *args, **kwargs)

    monkeypatch.setattr(protocol, "save_artifact", fail_for_seed_0)
    arguments = f"{QUICK} eval.episodes=1 eval.evaluations=0 wandb.mode=disabled seed=[0,1]"
    (job,) = make_plan(arguments.split()).jobs
    run_job(job)
    bad, good = Run(job, 0), Run(job, 1)
    assert good.finished()
    assert not bad.finished()
    assert bad.error() == "OSError: no space left on device"
    assert "Traceback" in (bad.path / "run.log").read_text()
    assert "no space left" in capsys.readouterr().err

    agent_written = (bad.path / "agent.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(protocol, "save_artifact", real)
    run_job(job)
    assert bad.finished()
    assert (bad.path / "agent.safetensors").stat().st_mtime_ns == agent_written
    assert bad.finished_result().lockstep_seeds == 2
    assert len((bad.path / "metrics.csv").read_text().splitlines()) > 2


def test_a_failing_training_is_recorded_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = make_plan([*f"{QUICK} eval.episodes=1 wandb.mode=disabled".split(), "+compress=ptdq"]).jobs
    with monkeypatch.context() as patch:
        patch.setattr("trainers.sac.SAC.update", lambda self, batch: 1 / 0)
        run_job(job)
    baseline = Run(job.with_fp32(), 0)
    assert baseline.error() == "ZeroDivisionError: division by zero"
    assert "did not finish" in Run(job, 0).error()
    run_job(job)
    assert baseline.finished()
    assert Run(job, 0).finished()

    # A lost artifact is made again from the agent.
    agent_written = (baseline.path / "agent.safetensors").stat().st_mtime_ns
    shutil.rmtree(baseline.artifact)
    shutil.rmtree(Run(job, 0).path)
    run_job(job)
    assert baseline.finished()
    assert Run(job, 0).finished()
    assert (baseline.path / "agent.safetensors").stat().st_mtime_ns == agent_written


def test_a_study_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "full").write_text("a file")
    (job,) = make_plan(f"{QUICK} study=full".split()).jobs
    run_job(job)
    error = capsys.readouterr().err
    assert error.startswith("rlc: outputs/full/Hopper-v4/sac: ")
    assert error.count("\n") == 1


def test_a_failing_wandb_never_costs_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def no_network(**_: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("wandb.init", no_network)
    (job,) = make_plan(f"{QUICK} eval.episodes=1 wandb.mode=online".split()).jobs
    run_job(job)
    assert Run(job, 0).finished()
    line = "W&B failed, the run goes on without it: no network"
    assert line in capsys.readouterr().err
    assert line in (Run(job, 0).path / "run.log").read_text()


def test_termination_leaves_no_run_running(tmp_path: Path) -> None:
    arguments = ["+algo=sac", "env=hopper", "algo.learning_starts=100", "wandb.mode=disabled"]
    with subprocess.Popen([sys.executable, "-m", "rlc.train", *arguments], cwd=tmp_path) as process:
        status = tmp_path / "outputs/default/Hopper-v4/sac"
        wait_until(lambda: any(status.glob("*/seed0/metrics.csv")))
        process.terminate()
    assert process.returncode == 143
    (path,) = status.glob("*/seed0/status.json")
    assert json.loads(path.read_text())["state"] == "interrupted"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_live_bar_on_a_terminal(tmp_path: Path) -> None:
    arguments = f"{QUICK} eval.episodes=1 eval.evaluations=2 wandb.mode=disabled".split()
    main, side = pty.openpty()
    command = [sys.executable, "-m", "rlc.train", *arguments]
    environment = os.environ | {"COLUMNS": "160", "TERM": "xterm"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=side, stderr=side, env=environment) as process:
        os.close(side)
        shown = b""
        try:
            while chunk := os.read(main, 4096):
                shown += chunk
        except OSError:  # the other end is closed
            pass
        os.close(main)
    assert process.returncode == 0
    text = shown.decode()
    for part in ("400/400", "steps/s", "return", "left"):
        assert part in text


def test_any_environment_with_box_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pendulum: one action of +-2, never terminates. No directory of another environment is touched."""
    monkeypatch.chdir(tmp_path)
    arguments = f"{QUICK} env.id=Pendulum-v1 +compress=qat eval.episodes=1 wandb.mode=disabled"
    (job,) = make_plan(arguments.split()).jobs
    run_job(job)
    run = Run(job, 0)
    assert run.path.parts[2] == "Pendulum-v1"
    act = OnnxPolicy(run.artifact / "policy.onnx")
    actions = np.stack([act(obs.astype(np.float32)) for obs in np.random.default_rng(0).normal(size=(50, 3)) * 5])
    assert np.abs(actions).max() <= 2
    contract = json.loads((run.artifact / "policy.json").read_text())
    assert contract["environment"]["action"]["high"] == [2.0]


def test_import_of_the_entry_point_is_light() -> None:
    code = "import rlc.train, sys; print([m for m in ('torch', 'wandb', 'gymnasium') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_registries_know_every_choice_of_conf() -> None:
    from rlc.config.compress import DERIVED_METHODS
    from rlc.sources import choices

    assert set(choices("algo")) == set(AGENTS)
    assert set(DERIVED_METHODS) <= set(choices("compress"))
    for name in choices("env"):
        assert spec_of(make_plan(["+algo=sac", f"env={name}"]).jobs[0].settings.env.id).act_dim > 0


@pytest.mark.parametrize("algo", ["ppo", "td3"])
def test_policies_of_other_algorithms_are_quantised_too(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that normalises observations itself, one that reads them raw: standardised in float, int8 behind."""
    monkeypatch.chdir(tmp_path)
    small = {"ppo": "algo.rollout_steps=200", "td3": "algo.learning_starts=200 algo.batch_size=32"}[algo]
    line = f"+algo={algo} +compress=ptdq env=hopper total_steps=400 algo.hidden=[32,32] {small} {FEW}"
    (job,) = make_plan([*line.split(), "wandb.mode=disabled"]).jobs
    run_job(job)
    run = Run(job, 0)
    assert run.finished()
    contract = json.loads((run.artifact / "policy.json").read_text())
    assert contract["stages"].count("dynamic_quant_linear") == 3
    assert contract["stages"][0] == "standardize"
    assert contract["normalizer"] is not None
