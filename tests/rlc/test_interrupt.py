"""Ctrl-C and termination: a checkpoint at the signal, state interrupted, and the same command goes on from there."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlc.messages import of_the_system
from rlc.pipeline.job import run_job
from rlc.pipeline.monitor import TrainingMonitor
from rlc.runs.run import Run
from rlc.runs.state import state_of
from tests.helpers import job, weights
from trainers.envs.make import env_factory, spec_of
from trainers.envs.seed_envs import SyncSeedEnvs, repeats_itself


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def signal_at(step: int, number: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    report = TrainingMonitor.report
    left = [number] * times

    def signalled(self: TrainingMonitor, now: int, figures: dict[str, torch.Tensor]) -> None:
        report(self, now, figures)
        while left and now >= step:
            os.kill(os.getpid(), left.pop())

    monkeypatch.setattr(TrainingMonitor, "report", signalled)


@pytest.mark.parametrize(
    ("algo", "step", "number"),
    [("td3", 550, signal.SIGINT), ("ppo", 512, signal.SIGTERM), ("sac", 1000, signal.SIGINT)],
)
def test_a_signal_costs_no_step(algo: str, step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind the last step, where only the recording is left."""
    whole, parts = job(algo, "study=whole checkpoint_every=null"), job(algo, "study=parts checkpoint_every=100000")
    run_job(whole)
    with monkeypatch.context() as context:
        signal_at(step, number, context)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            run_job(parts)
    for seed in (4, 5):
        run = Run(parts, seed)
        assert state_of(run).state == "interrupted"
        assert state_of(run).error is None
        saved = run.checkpoints().newest()
        assert saved is not None
        assert saved.step == step
        assert "Traceback" not in (run.path / "run.log").read_text()
    run_job(parts)
    for seed in (4, 5):
        assert weights(Run(parts, seed).path) == weights(Run(whole, seed).path)


def test_a_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = job("sac", "checkpoint_every=100000")
    signal_at(400, signal.SIGINT, monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt):
        run_job(parts)
    assert state_of(Run(parts, 4)).state == "interrupted"
    assert Run(parts, 4).checkpoints().newest() is None


def test_a_failure_that_the_signal_caused_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler, say, that hears the Ctrl-C of the terminal too."""

    def failing(self: TrainingMonitor, now: int, figures: dict[str, torch.Tensor]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("the compiler was interrupted")

    monkeypatch.setattr(TrainingMonitor, "report", failing)
    parts = job("sac")
    with pytest.raises(KeyboardInterrupt):
        run_job(parts)
    assert state_of(Run(parts, 4)).state == "interrupted"


SMALL = "+algo=sac env.id=Pendulum-v1 total_steps=200000 algo.learning_starts=200 algo.hidden=[16] algo.batch_size=16"
QUIET = "eval.episodes=1 eval.evaluations=0 wandb.mode=disabled compile=false"


@pytest.mark.parametrize(
    "more",
    [
        "",
        "seed=0,1,2 -m",
        "seed=0,1,2 -m hydra.launcher.n_jobs=1",
        pytest.param("seed=0,1 -m hydra/launcher=basic", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_is_one_line(more: str, tmp_path: Path) -> None:
    """As a terminal sends it, to all processes of the command."""
    command = [sys.executable, "-m", "rlc.train", *f"{SMALL} {QUIET} {more}".split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        while not list(tmp_path.glob("outputs/default/*/*/*/seed0/metrics.csv")):
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "rlc: interrupted; the same command goes on with what is left\n"
    statuses = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/default/*/*/*/seed*/status.json")]
    assert {status["state"] for status in statuses} == {"interrupted"}
    assert len(list(tmp_path.glob("outputs/default/*/*/*/seed0/checkpoint/manifest-*.json"))) == 1
    assert not list(tmp_path.glob("outputs/.multirun/jobs-*"))


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_modules_are_imported_is_one_line(ignored: bool) -> None:
    """And none at all where it is ignored, as behind nohup."""
    code = "import sys, os, signal; sys.argv = ['-m']; import rlc; os.kill(os.getpid(), signal.SIGINT); print('on')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        (0, "on\n", "") if ignored else (130, "", "rlc: interrupted\n")
    )


def test_a_full_disk_has_a_way_out() -> None:
    assert of_the_system(OSError(errno.ENOSPC, "No space left on device")).endswith("; free some space, or start the "
        "command in another directory")  # fmt: skip
    assert "make it writable for you, or start" in of_the_system(OSError(errno.EACCES, "Permission denied"))
    assert of_the_system(OSError(errno.EIO, "Input/output error")) == "[Errno 5] Input/output error"


FLAKY = "env.id=tests.own_envs:{}-v0 algo.learning_starts=300"


def test_no_checkpoint_is_trusted_of_what_does_not_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    moody = job("sac", FLAKY.format("Moody"), "[4]")
    run_job(moody)
    assert (
        "Moody-v0 does not repeat itself: no checkpoints; a run that is stopped begins anew" in capsys.readouterr().err
    )
    assert Run(moody, 4).finished()


@pytest.mark.parametrize("name", ["GlobalNumPy", "RandomState"])
def test_runs_with_generators_of_their_own_go_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (job("sac", f"study={study} {FLAKY.format(name)}", "[4]") for study in ("whole", "parts"))
    run_job(whole)
    with monkeypatch.context() as context:
        signal_at(450, signal.SIGINT, context)
        with pytest.raises(KeyboardInterrupt):
            run_job(parts)
    run_job(parts)
    assert weights(Run(whole, 4).path) == weights(Run(parts, 4).path)


def test_whether_an_environment_repeats_itself_is_seen() -> None:
    for name, expected in (("Plain", True), ("RandomState", True), ("Moody", False)):
        spec = spec_of(f"tests.own_envs:{name}-v0")
        envs = SyncSeedEnvs(env_factory(spec), spec, [3], 2)
        envs.reset()
        for _ in range(30):
            envs.step(torch.zeros(1, 2, 2).numpy())
        assert repeats_itself(env_factory(spec), spec, envs.snapshot(0)) is expected
