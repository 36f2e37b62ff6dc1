"""Searches with Optuna: what is searched, what is refused, and that a stopped search ends as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlc.config.plan import EXTRAS, Plan, make_plan
from rlc.config.space import Dimension
from rlc.grid import search as searching
from rlc.grid.search import JOURNAL_FILE, search, search_folder
from rlc.reporting.search import PICTURE_FILE, TABLE_FILE, TrialRow
from rlc.runs.run import Run, runs_of
from rlc.runs.state import state_of
from rlc.runs.stored import StoredRun
from rlc.train import plan_and_run
from tests.helpers import make_result
from trainers.errors import UserError

LINE = "+algo=sac env=hopper seed=0,1 hydra/sweeper=optuna -m wandb.mode=disabled total_steps=20_000"
SPACE = "algo.actor_lr=tag(log,interval(1e-5,1e-2)) algo.batch_size=32,64"
FEW = "hydra.sweeper.n_trials=6 hydra.sweeper.sampler.startup_trials=2"
optuna = pytest.importorskip("optuna", reason="install the extra optuna")


def planned(more: str) -> Plan:
    return make_plan(f"{LINE} {more}".split())


def test_what_is_searched_is_read_as_hydras_plug_in_reads_it() -> None:
    words = (
        f"{SPACE} algo.tau=interval(0.001,0.1) algo.learning_starts=int(interval(100,500)) "
        "algo.updates_per_step=range(1,8,2)"
    )
    plan = planned(f"{words} +compress=choice(fp32,qat)".replace("total_steps=20_000", ""))
    assert plan.search is not None
    found = {one.name: one for one in plan.search.dimensions}
    assert found["algo.actor_lr"] == Dimension("algo.actor_lr", low=1e-5, high=1e-2, log=True)
    assert found["algo.tau"] == Dimension("algo.tau", low=0.001, high=0.1)
    assert found["algo.learning_starts"] == Dimension("algo.learning_starts", low=100, high=500, whole=True)
    assert found["algo.updates_per_step"] == Dimension("algo.updates_per_step", low=1, high=7, step=2, whole=True)
    assert found["algo.batch_size"].values == ("32", "64")
    assert found["compress"] == Dimension("+compress", values=("fp32", "qat"))
    drawn = {one.name: one.corners()[-1] for one in plan.search.dimensions}
    jobs = plan.search.make(drawn)
    assert [job.settings.seed for job in jobs] == [[0], [1]]
    assert jobs[0].settings.algo.model_dump()["actor_lr"] == 1e-2
    assert jobs[0].settings.compress.method == "qat"
    packed = make_plan(f"{LINE} {SPACE}".replace("seed=0,1", "seed=[0,1,2]").split())
    assert packed.search is not None
    assert [job.settings.seed for job in packed.search.first()] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("", r"nothing to search; give a setting several values"),
        ("algo.tau=interval(0.5,2)", r"algo.tau=2.0: must be less than or equal to 1"),
        ("algo.batch_size=32,0", r"algo.batch_size=0: must be greater"),
        ("algo.tau=interval(0.5,0.1)", r"low < high"),
        ("algo.tau=tag(log,interval(0,1))", r"both above 0 where tagged log"),
        ("algo.tau=tag(big,interval(0.1,1))", r"unknown tag; allowed: tag\(log"),
        ("eval.episodes=1,2", r"trials are compared by their returns, so eval is the same for all"),
        ("env.id=Hopper-v4,Ant-v4", r"trials are compared by their returns, so env is the same"),
        ("threads=1,2", r"changes no return, there is nothing to search"),
        ("seed=interval(0,5)", r"seeds are counted"),
        ("hydra.sweeper.n_trials=0 algo.tau=0.1,0.2", r"hydra.sweeper.n_trials=0: must be greater"),
        ("hydra.sweeper.sampler.name=x algo.tau=0.1,0.2", r"hydra.sweeper.sampler.name=x: must be 'tpe' or 'random'"),
        ("hydra.sweeper.direction=maximize algo.tau=0.1,0.2", r"hydra.sweeper.direction=maximize: no such key"),
    ],
)
def test_what_cannot_be_searched_is_one_line(more: str, line: str) -> None:
    given = LINE.replace("seed=0,1", "") if more.startswith("seed") else LINE
    given = given.replace("env=hopper", "") if more.startswith("env.id") else given
    with pytest.raises(UserError, match=line) as caught:
        make_plan(f"{given} {more}".split())
    assert "\n" not in str(caught.value)


def test_intervals_outside_of_a_search_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("-m", ""):
        with pytest.raises(UserError, match=r"interval|several values"):
            make_plan(f"+algo=sac env=hopper seed=0 algo.tau=interval(0.1,0.2) {flag}".split())
    monkeypatch.setitem(EXTRAS["hydra/sweeper"], "optuna", ("optuna", "no_such_module"))
    with pytest.raises(UserError, match=r"hydra/sweeper=optuna: not installed; .*\[optuna\]"):
        planned(SPACE)


Stand = Callable[[Plan], None]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stand | None], None]:
    """Runs that are finished at once, with a return that is higher for a learning rate near 1e-3."""
    monkeypatch.chdir(tmp_path)

    def finished(run: Run) -> bool:
        return (run.path / "value").exists()

    def result(run: Run) -> Any:
        return make_result(return_mean=float((run.path / "value").read_text()))

    def use(before: Stand | None = None) -> None:
        def launch(plan: Plan) -> None:
            if before is not None:
                before(plan)
            for job in plan.jobs:
                for run in runs_of(job):
                    if not (run.path / "skip").exists():
                        run.path.mkdir(parents=True, exist_ok=True)
                        (run.path / "value").write_text(str(value(run)))

        monkeypatch.setattr(searching, "launch", launch)

    monkeypatch.setattr(StoredRun, "finished", finished)
    monkeypatch.setattr(StoredRun, "finished_result", result)
    return use


def value(run: Run) -> float:
    rate = float(run.settings.algo.model_dump()["actor_lr"])
    return -abs(rate - 1e-3) * 1000 + 0.1 * run.seed


def searched(more: str = FEW) -> list[TrialRow]:
    plan = planned(f"{SPACE} {more}")
    assert plan.search is not None
    return search(plan, search_folder(plan.search))


def test_a_search_that_was_stopped_ends_as_one_that_was_not(
    stand_in: Callable[[Stand | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(None)
    whole = searched()
    assert [row.state for row in whole] == ["done"] * 6
    assert len({row.values["algo.actor_lr"] for row in whole}) == 6
    for row in whole:
        found = row.objective
        assert found is not None
        assert found.value == pytest.approx(sum(row.returns) / 2)
        assert found.low < found.value < found.high
    # Elsewhere: Ctrl-C in the third trial, then a kill that leaves half a line and Optuna's lock.
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    calls: list[int] = []

    def stop(plan: Plan) -> None:
        calls.append(1)
        if len(calls) in (3, 5):
            raise KeyboardInterrupt

    stand_in(stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            searched()
    (folder,) = tmp_path.glob("other/outputs/default/search/*")
    with (folder / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"op_code":5,"wor')
    (folder / f"{JOURNAL_FILE}.lock").symlink_to("nowhere")
    again = searched()
    assert [(row.values, row.returns) for row in again] == [(row.values, row.returns) for row in whole]
    # More trials go on, and a finished search does nothing.
    assert searched() == again
    more = searched(FEW.replace("n_trials=6", "n_trials=8"))
    assert more[:6] == again
    assert len(more) == 8
    assert (folder / TABLE_FILE).read_text().count("\n") == 9
    assert (folder / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")
    assert b"pickle" not in (folder / JOURNAL_FILE).read_bytes()


def test_a_failed_trial_is_tried_again_by_the_same_command(stand_in: Callable[[Stand | None], None]) -> None:
    marks: list[Path] = []

    def fail(plan: Plan) -> None:
        if not marks:
            (run, _) = [run for job in plan.jobs for run in runs_of(job)]
            run.path.mkdir(parents=True)
            marks.append(run.path / "skip")
            marks[0].touch()

    stand_in(fail)
    failed = searched()
    assert [row.state for row in failed] == ["failed"] + ["done"] * 5
    assert len({str(row.values) for row in failed}) == 6
    assert [row.state for row in searched()] == ["done"] * 5 + ["failed"]
    marks[0].unlink()
    rows = searched()
    assert [row.state for row in rows] == ["done"] * 6
    assert rows[5].values == failed[0].values


def test_settings_that_were_drawn_before_do_not_end_the_drawing(stand_in: Callable[[Stand | None], None]) -> None:
    stand_in(None)
    rows = searched("hydra.sweeper.n_trials=8 hydra.sweeper.sampler.name=random")
    assert len({row.values["algo.actor_lr"] for row in rows}) == 8
    plan = planned("algo.batch_size=16,32,64 hydra.sweeper.n_trials=12 hydra.sweeper.sampler.name=random")
    assert plan.search is not None
    few = search(plan, search_folder(plan.search))
    assert len(few) == 12
    assert {row.values["algo.batch_size"] for row in few} == {"16", "32", "64"}


def test_two_processes_do_not_run_one_search(stand_in: Callable[[Stand | None], None]) -> None:
    def nested(plan: Plan) -> None:
        with pytest.raises(UserError, match="another process runs this search"):
            searched()

    stand_in(nested)
    searched("hydra.sweeper.n_trials=1")


def test_hopeless_trials_are_told_to_stop_and_say_so(stand_in: Callable[[Stand | None], None]) -> None:
    def curves(plan: Plan) -> None:
        runs = [run for job in plan.jobs for run in runs_of(job)]
        number = len(list(Path("outputs").glob("default/*/*/*/seed0")))
        for run in runs:
            with suppress(OSError):
                run.begin()
            height = 10 - number
            rows = "".join(f"{100 * k},{height}\n" for k in range(1, 6))
            (run.path / "metrics.csv").write_text(f"global_step,eval/return_mean\n{rows}")
        deadline = time.monotonic() + 3
        while number >= 2 and not (runs[0].path / "prune").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if number >= 2:
            for run in runs:
                (run.path / "skip").touch()

    stand_in(curves)
    pruner = "hydra.sweeper.pruner.startup_trials=2 hydra.sweeper.pruner.warmup_evaluations=1"
    rows = searched(f"hydra.sweeper.n_trials=4 {pruner}")
    assert [row.state for row in rows] == ["done", "done", "pruned", "pruned"]
    assert [row.stopped_at for row in rows] == [None, None, 200, 200]
    assert rows[2].last_evaluation == 8
    stopped = make_plan(
        f"+algo=sac env=hopper seed=0 wandb.mode=disabled total_steps=20_000 {' '.join(rows[2].overrides)}".split()
    ).jobs[0]
    (run,) = runs_of(stopped)
    assert state_of(run).state == "pruned"
    assert "below the median at step 200" in run.error()


def test_a_dry_run_searches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_and_run([*f"{LINE} {SPACE}".split(), "--dry-run"]) == 0
    assert "search/sac-Hopper-v4~" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_search_is_killed_prunes_and_ends(tmp_path: Path) -> None:
    line = (
        "+algo=sac env.id=Pendulum-v1 seed=0,1 total_steps=2000 algo.hidden=[16,16] algo.learning_starts=200 "
        "algo.batch_size=16,32 algo.actor_lr=tag(log,interval(1e-6,1e-2)) eval.episodes=2 eval.evaluations=10 "
        "checkpoint_every=400 wandb.mode=disabled -m hydra/sweeper=optuna hydra.sweeper.n_trials=7 "
        "hydra.sweeper.pruner.startup_trials=2 hydra.sweeper.pruner.warmup_evaluations=2"
    )
    command = [sys.executable, "-m", "rlc.train", *line.split()]
    chance = random.Random(0)
    for _ in range(2):
        with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(25, 50))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best: algo.batch_size=" in done.stdout
    assert done.stderr == ""
    (table,) = tmp_path.glob("outputs/default/search/*/trials.csv")
    lines = table.read_text().splitlines()
    assert len(lines) == 8
    found = [json.loads(file.read_text())["state"] for file in tmp_path.glob("outputs/default/*/*/*/seed*/status.json")]
    assert found.count("pruned") == 2 * sum(",pruned," in line for line in lines)
    assert set(found) <= {"done", "pruned"}
