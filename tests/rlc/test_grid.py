"""Multiruns with real launchers and processes: order, failures, kills, full disks, status."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rlc.config.plan import LAUNCHERS, make_plan
from rlc.grid.launch import stages
from rlc.grid.watch import ProgressMonitor
from rlc.runs.find import list_runs
from rlc.runs.run import Run
from rlc.runs.state import State, check_independent_seeds, state_of
from rlc.status import status
from rlc.train import plan_and_run
from tests.helpers import as_run
from trainers.errors import UserError

ONE = "+algo=sac env=hopper total_steps=800 algo.learning_starts=200 algo.hidden=[16,16] algo.batch_size=16"
QUIET = "eval.episodes=1 eval.evaluations=1 wandb.mode=disabled"
GRID = f"{ONE} {QUIET} +compress=fp32,ptdq seed=0,1 checkpoint_every=100 -m"


def rlc_train(arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlc.train", *arguments.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def finish(arguments: str, cwd: Path, expect: int = 0) -> tuple[str, str]:
    with rlc_train(arguments, cwd) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == expect, out + err
    return out, err


def artifacts(cwd: Path) -> dict[str, str]:
    files = sorted(cwd.glob("outputs/default/*/*/*/seed*/artifact/policy.*"))
    return {str(path.relative_to(cwd)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("whole")
    out, err = finish(GRID, cwd)
    assert "4 runs, 0 of them finished already" in out
    assert err == ""
    return cwd


def test_training_comes_first_and_missing_baselines_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(f"{ONE} +compress=ptsq,qat,ptdq compress.reduce_range=false seed=0,1 -m".split())
    training, derived = stages(plan)
    baseline = make_plan(ONE.split()).jobs[0].settings
    assert [job.settings for job in training if job.settings.compress.method != "qat"] == [
        baseline.model_copy(update={"seed": [0]}),
        baseline.model_copy(update={"seed": [1]}),
    ]
    assert len(training) == 4
    assert {job.settings.compress.method for job in derived} == {"ptsq", "ptdq"}
    packs = stages(make_plan(f"{ONE} +compress=ptdq protocol=ours,paper seed=[0,1],[2,3] -m".split()))
    assert [job.settings.seed for job in packs[0]] == [[0, 1], [2, 3]]
    assert len(packs[1]) == 4


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("basic", marks=pytest.mark.slow)])
def test_what_was_decided_while_planning_holds_on_workers_that_would_decide_otherwise(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner's CPU needs 7-bit weights, those of the workers and their children do not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlc.config.decide.needs_reduced_range", lambda: True)
    words = f"{ONE} {QUIET} +compress=qat,ptsq seed=0 -m hydra/launcher={launcher}"
    assert plan_and_run(words.split()) == 0
    runs = list_runs("default")
    assert sorted(run.label.partition("~")[0] for run in runs) == ["fp32", "ptsq", "qat"]
    for run in runs:
        assert run.finished()
        contract = json.loads((run.artifact / "policy.json").read_text())
        assert contract["compression"].get("reduce_range", True) is True
    assert not list(tmp_path.glob("outputs/.multirun/jobs-*"))


def test_what_is_finished_is_not_launched_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    assert stages(make_plan(GRID.split())) == []
    more = stages(make_plan(GRID.replace("seed=0,1", "seed=1,2").split()))
    assert [(job.settings.seed, job.settings.checkpoint_every) for stage in more for job in stage] == [([2], 100)] * 2


def kill_and_resume(whole: Path, cwd: Path, kills: int) -> None:
    chance = random.Random(kills)
    for _ in range(kills):
        process = rlc_train(GRID, cwd)
        time.sleep(chance.uniform(4, 14))
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:  # it was quicker
            process.communicate()
            continue
        victim = chance.choice(tree)
        if victim.is_running():
            victim.kill()
        time.sleep(chance.uniform(0, 2))
        with suppress(ProcessLookupError):  # then all the others at once
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(GRID, cwd)
    assert artifacts(cwd) == artifacts(whole)
    assert len(artifacts(cwd)) == 12


@pytest.mark.slow
def test_three_kills_change_no_bit(whole: Path, tmp_path: Path) -> None:
    kill_and_resume(whole, tmp_path, 3)


@pytest.mark.slow
def test_twenty_kills_change_no_bit(whole: Path, tmp_path: Path) -> None:
    kill_and_resume(whole, tmp_path, 20)


def test_a_failed_job_costs_no_other_and_is_named_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "outputs/default/Hopper-v4/sac").mkdir(parents=True)
    (tmp_path / "outputs/default/Hopper-v4/td3").write_text("in the way\n")
    both = GRID.replace("+algo=sac", "+algo=td3,sac").replace("+compress=fp32,ptdq seed=0,1", "seed=0")
    _, err = finish(both, tmp_path, expect=1)
    assert "failed: td3 Hopper-v4 fp32" in err
    assert len(artifacts(tmp_path)) == 3


def test_a_killed_job_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    process = rlc_train(GRID.replace("total_steps=800", "total_steps=2000"), tmp_path)
    killed = None
    while killed is None and process.poll() is None:
        time.sleep(0.2)
        for path in tmp_path.glob("outputs/default/*/*/fp32*/seed0/status.json"):
            running = json.loads(path.read_text())
            if running["state"] == "running":
                killed = path
                os.kill(running["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=400)
    assert killed is not None
    assert "its process was killed by SIGKILL" in err
    # The run that builds on it has trained it again, from its checkpoint.
    assert process.returncode == 0, out + err
    assert len(artifacts(tmp_path)) == 12


def test_fail_fast_starts_no_more_jobs(tmp_path: Path) -> None:
    folder = tmp_path / "outputs/default/Hopper-v4"
    folder.mkdir(parents=True)
    (folder / "sac").write_text("in the way\n")
    _, err = finish(f"{GRID} fail_fast=true hydra/launcher=basic", tmp_path, expect=1)
    assert err.count("NotADirectoryError") + err.count("FileExistsError") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    return disk


def test_a_full_disk_loses_nothing_that_was_finished(small_disk: Path, tmp_path: Path) -> None:
    try:
        finish(f"{ONE} {QUIET} seed=0", small_disk)
        before = artifacts(small_disk)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        _, err = finish(f"{ONE} {QUIET} seed=0,1 -m", small_disk, expect=1)
        assert "No space left on device" in err
        assert artifacts(small_disk) == before
        filler.unlink()
        finish(f"{ONE} {QUIET} seed=0,1 -m", small_disk)
        assert len(artifacts(small_disk)) == 6
    finally:
        subprocess.run(["umount", str(small_disk)], check=False)


@pytest.mark.parametrize(
    "damage", ["checkpoint", *(pytest.param(d, marks=pytest.mark.slow) for d in ("result", "artifact"))]
)
def test_damaged_files_are_done_again(damage: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "outputs", tmp_path / "outputs")
    run = next(tmp_path.glob("outputs/default/*/*/ptdq*/seed1"))
    if damage == "result":
        (run / "result.json").write_text((run / "result.json").read_text()[:100])
    elif damage == "artifact":
        shutil.rmtree(run / "artifact")
    else:
        (run / "checkpoint").mkdir()
        (run / "checkpoint" / "manifest-100.json").write_text("{")
        (run / "status.json").unlink()
    out, _ = finish(GRID, tmp_path)
    assert "4 runs, 3 of them finished already" in out
    assert artifacts(tmp_path) == artifacts(whole)


def worker_of(process: subprocess.Popen[str], mark: str) -> psutil.Process:
    """A process below the given one whose command line holds a word."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if mark in child.cmdline():
                    return child
        time.sleep(0.1)
    raise AssertionError(f"no {mark} was seen")


def needs(extra: str) -> None:
    pytest.importorskip(LAUNCHERS[extra][1], reason=f"install the extra {extra}")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_other_launchers_end_in_the_same_bits(launcher: str, whole: Path, tmp_path: Path) -> None:
    needs(launcher)
    finish(f"{GRID} hydra/launcher={launcher}", tmp_path)
    assert artifacts(tmp_path) == artifacts(whole)


@pytest.mark.slow
def test_a_running_ray_cluster_is_used(whole: Path, tmp_path: Path) -> None:
    needs("ray")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    # Not where the grid is started: nothing may depend on where the workers of a cluster happen to be.
    subprocess.run([*ray, "start", "--head", "--num-cpus=2", "--port=0"], cwd="/", check=True, capture_output=True)
    try:
        finish(f"{GRID} hydra/launcher=ray_cluster", tmp_path)
    finally:
        subprocess.run([*ray, "stop", "--force"], check=True, capture_output=True)
    assert artifacts(tmp_path) == artifacts(whole)


@pytest.mark.slow
def test_a_preempted_job_goes_on_when_its_scheduler_starts_it_again(whole: Path, tmp_path: Path) -> None:
    """Submitit's signal, as Slurm sends it before it takes a node away."""
    needs("slurm")
    with rlc_train(f"{GRID.replace('seed=0,1', 'seed=0')} hydra/launcher=submitit_local", tmp_path) as process:
        worker = worker_of(process, "submitit.core._submit")
        while not list(tmp_path.glob("outputs/default/*/*/*/seed0/checkpoint/manifest-*.json")):
            time.sleep(0.05)
        worker.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    log = next(tmp_path.glob("outputs/default/*/*/fp32*/seed0/run.log")).read_text()
    assert "goes on from the checkpoint of step" in log
    assert len(artifacts(tmp_path)) == 6
    assert artifacts(tmp_path).items() <= artifacts(whole).items()


def test_a_launcher_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAUNCHERS, "slurm", ("slurm", "no_such_module"))
    with pytest.raises(UserError, match=r"launcher=slurm: not installed; .* '.\[slurm\]'"):
        make_plan([*GRID.split(), "hydra/launcher=slurm"])


def test_an_unknown_launcher_is_one_line(tmp_path: Path) -> None:
    _, err = finish(f"{GRID} hydra/launcher=nomad", tmp_path, expect=2)
    assert err.count("\n") == 1
    assert "nomad" in err


def test_status_tells_of_every_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    runs = [Run(job, seed) for job in make_plan(GRID.split()).jobs for seed in job.settings.seed]
    now = {"host": os.uname().nodename, "heartbeat": "2020-01-01T00:00:00Z", "started": "2020-01-01T00:00:00Z"}
    for run, change in zip(
        runs,
        (
            now | {"state": "running", "pid": os.getpid(), "step": 200},
            now | {"state": "running", "pid": 2**22 + 1, "step": 200},
            now | {"state": "failed", "error": "OSError: no"},
            {},
        ),
        strict=True,
    ):
        path = run.path / "status.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (runs[3].path / "artifact" / "policy.onnx").unlink()
    found = [state_of(run) for run in runs]
    assert [one.state for one in found] == ["running", "lost", "failed", "failed"]
    assert found[2].error == "OSError: no"
    assert found[3].error == "a file of it is missing or damaged"
    status([*GRID.replace("seed=0,1", "seed=0,1,2").split(), "--json"])
    listed = [State(**one).state for one in json.loads(capsys.readouterr().out)]
    assert listed.count("missing") == 2
    assert ProgressMonitor(runs).line().startswith("0 done, 2 failed, 1 running, 1 left")
    status(["study=default"])
    assert "2 failed, 1 lost, 1 running" in capsys.readouterr().out


def test_two_seeds_that_began_alike_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = as_run("trpo-halfcheetah", study="fixtures")
    twin = tmp_path / run.path.parent / "seed1"
    shutil.copytree(run.path, twin)
    with pytest.raises(UserError, match=r"seed0 and .*seed1 have the same initial_weights_sha256"):
        check_independent_seeds(list_runs("fixtures"))
