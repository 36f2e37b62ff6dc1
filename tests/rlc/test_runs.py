"""Run directories: status, identity, what is kept and what is not."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.files import sha256
from rlc.config.job import Job
from rlc.config.plan import make_plan
from rlc.pipeline.check import check_runs
from rlc.pipeline.job import run_job
from rlc.runs.records import TrainingRecord
from rlc.runs.run import MetricsFile, Run
from rlc.runs.stored import load_run
from tests.helpers import make_result
from trainers.errors import UserError


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def job(arguments: str = "") -> Job:
    return make_plan(f"+algo=sac {arguments}".split()).jobs[0]


def finish(run: Run, **result: Any) -> Run:
    run.begin()
    run.artifact.mkdir()
    files = {"policy.onnx": b"graph", "policy.safetensors": b"tensors"}
    for name, content in files.items():
        (run.artifact / name).write_bytes(content)
    hashes = {name: sha256(content) for name, content in files.items()}
    (run.artifact / "policy.json").write_text(json.dumps({"sha256": hashes}))
    run.finish(make_result(**({"training_identity": run.training_identity} | result)))
    return run


def test_a_run_is_finished_when_status_result_and_artifact_are_there() -> None:
    run = Run(job(), 0)
    assert not run.finished()
    run.begin()
    assert not run.finished()
    assert json.loads((run.path / "status.json").read_text())["state"] == "running"
    finish(run)
    assert run.finished()
    assert not list(run.path.glob(".*"))  # no temporary file is left


@pytest.mark.parametrize("name", ["policy.onnx", "policy.safetensors", "policy.json"])
def test_a_damaged_artifact_is_not_finished(name: str) -> None:
    run = finish(Run(job(), 0))
    derived = job("+compress=ptdq")
    baseline = Run(derived, 0).baseline
    assert baseline is not None
    assert baseline.path == run.path
    (run.artifact / name).write_bytes(b"graf")
    assert not run.finished()
    assert Run(derived, 0).baseline is None
    (run.artifact / name).unlink()
    assert not run.finished()


def test_an_agent_counts_as_trained_only_whole_and_with_the_same_settings() -> None:
    run = Run(job(), 0)
    run.begin()
    assert not run.trained()
    run.save_agent({"weight": torch.ones(3)}, TrainingRecord(train_seconds=1.5))
    assert run.trained()
    assert run.load_agent()[1] == TrainingRecord(train_seconds=1.5)
    assert torch.equal(run.load_agent()[0]["weight"], torch.ones(3))
    assert Run(job("eval.episodes=3"), 0).path != run.path
    other = Run(job("algo.gamma=0.9"), 0)
    other.path.mkdir(parents=True)
    (other.path / "agent.safetensors").write_bytes((run.path / "agent.safetensors").read_bytes())
    assert not other.trained()
    (run.path / "agent.safetensors").write_bytes(b"12345")
    assert not run.trained()


@pytest.mark.parametrize("content", ["", '{"return_mean": 1', "[]", "{}"])
def test_a_truncated_result_is_not_finished(content: str) -> None:
    run = finish(Run(job(), 0))
    (run.path / "result.json").write_text(content)
    assert not run.finished()


def test_a_failed_run_says_why() -> None:
    run = Run(job(), 0)
    assert run.error() == "its state is not begun"
    run.begin()
    run.fail(RuntimeError("out of\nluck"))
    assert run.error() == "RuntimeError: out of luck"


def test_overwriting_keeps_the_old_run() -> None:
    run = finish(Run(job(), 0), return_mean=5.0)
    run.archive()
    finish(run, return_mean=6.0)
    run.archive()
    assert not run.path.exists()
    old = [json.loads((run.path.with_name(f"seed0.old-{n}") / "result.json").read_text()) for n in (1, 2)]
    assert [o["return_mean"] for o in old] == [5.0, 6.0]


def test_a_directory_of_other_settings_is_refused() -> None:
    run = Run(job(), 0)
    run.begin()
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(status | {"identity": "other"}))
    with pytest.raises(UserError, match="holds a run of other settings"):
        check_runs([job()])
    with pytest.raises(UserError, match="holds a run of other settings"):
        run.begin()


def test_a_baseline_of_older_defaults_is_neither_used_nor_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """The directory has the plain label, but was trained when the defaults were others."""
    old = finish(Run(job(), 0), training_identity="other")
    status = json.loads((old.path / "status.json").read_text())
    (old.path / "status.json").write_text(json.dumps(status | {"identity": "other"}))
    derived = job("+compress=ptdq wandb.mode=disabled")
    run_job(derived)
    assert "holds a run of other settings" in capsys.readouterr().err
    assert "did not finish" in Run(derived, 0).error()
    assert (old.path / "result.json").is_file()
    assert (old.artifact / "policy.onnx").is_file()


def test_config_names_what_differs_from_the_defaults() -> None:
    run = Run(job("algo.tau=0.01 eval.episodes=3"), 2)
    run.begin()
    text = (run.path / "config.yaml").read_text()
    assert "differs_from_defaults:\n  algo.tau: 0.01\n  eval.episodes: 3\n" in text
    assert "seed:\n  - 2\n" in text


def test_an_fp32_run_is_found_by_its_training_whatever_its_evaluation() -> None:
    derived = job("+compress=ptdq eval.episodes=20")
    run = Run(derived, 0)
    assert run.baseline is None
    for arguments in ("", "algo.tau=0.01"):
        finish(Run(job(arguments), 0))
    assert run.baseline is not None
    assert run.baseline.path == Run(job(), 0).path
    assert Run(derived, 1).baseline is None
    assert Run(job("+compress=ptdq algo.gamma=0.9"), 0).baseline is None


class TestBaseline:
    def test_it_is_a_run_with_settings_and_a_result_of_its_own(self) -> None:
        fp32 = finish(Run(job("eval.episodes=3"), 0), return_mean=7.0)
        baseline = Run(job("+compress=ptdq"), 0).baseline
        assert baseline is not None
        assert (baseline.path, baseline.identity, baseline.seed) == (fp32.path, fp32.identity, 0)
        assert baseline.settings.is_fp32
        assert baseline.settings.eval.episodes == 3
        assert baseline.finished_result().return_mean == 7.0

    def test_it_is_looked_for_until_it_is_there_and_then_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(job("+compress=ptdq"), 0)
        assert run.baseline is None
        finish(Run(job(), 0))
        baseline = run.baseline
        assert baseline is not None
        monkeypatch.setattr("rlc.runs.stored.find_baseline", None)
        assert run.baseline is baseline

    def test_an_fp32_run_by_the_papers_protocol_is_none(self) -> None:
        finish(Run(job("+compress=fp32 protocol=paper"), 0))
        assert Run(job("+compress=ptdq"), 0).baseline is None

    def test_a_stored_run_has_the_same_one(self) -> None:
        fp32 = finish(Run(job(), 0))
        derived = finish(Run(job("+compress=ptdq"), 0))
        baseline = load_run(derived.path).baseline
        assert baseline is not None
        assert baseline.path == fp32.path

    def test_one_whose_settings_are_torn_is_named(self) -> None:
        fp32 = finish(Run(job(), 0))
        (fp32.path / "config.yaml").write_text("settings: {}")
        with pytest.raises(UserError, match=f"{fp32.path} holds no run that can be read"):
            check_runs([job("+compress=ptdq")])


def test_the_environment_travels_with_the_run() -> None:
    run = Run(job("env.id=Pendulum-v1"), 0)
    assert (run.spec.env_id, run.spec.obs_dim, run.spec.act_dim) == ("Pendulum-v1", 3, 1)
    with run.make_env() as env:
        assert env.spec is not None
        assert env.spec.id == "Pendulum-v1"


def test_a_missing_result_is_named() -> None:
    run = Run(job(), 0)
    with pytest.raises(UserError, match=r"seed0/result.json: missing or damaged"):
        run.finished_result()


def test_metrics_leave_missing_columns_empty(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv", ["global_step", "a", "b"], 0)
    file.write({"global_step": 1, "a": 2.0})
    file.write({"global_step": 2, "b": 3.0})
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert rows == [{"global_step": "1", "a": "2.0", "b": ""}, {"global_step": "2", "a": "", "b": "3.0"}]
    file.close()


def test_metrics_behind_the_restored_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for step, rows in ((0, (10, 20, 30)), (20, (25,))):
        file = MetricsFile(path, ["global_step", "a"], step)
        for row in rows:
            file.write({"global_step": row, "a": row / 2})
        file.close()
    assert path.read_text().split() == ["global_step,a", "10,5.0", "20,10.0", "25,12.5"]
