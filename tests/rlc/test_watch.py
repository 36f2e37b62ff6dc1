"""What a multirun shows while it lasts: a block on a terminal, lines elsewhere."""

import io
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rlc.grid import watch
from rlc.grid.watch import ProgressMonitor
from rlc.runs.files import write_record
from rlc.runs.run import Run
from rlc.runs.state import State, state_of
from rlc.runs.stored import utc_now
from tests.helpers import as_run, make_status


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """A finished run, and one that trains."""
    monkeypatch.chdir(tmp_path)
    done = as_run("trpo-halfcheetah", study="fixtures")
    training = as_run("sac-hopper", study="fixtures")
    (training.path / "metrics.csv").write_text(
        "global_step,charts/episodic_return,charts/SPS,eval/return_mean\n"
        "100,5.0,50.0,\n200,,100.0,77.25\n300,80.5,100.0,\n400,,1"
    )
    run_on(training, 400)
    return [done, training]


def run_on(run: Run, step: int) -> None:
    now = {"pid": os.getpid(), "host": os.uname().nodename, "started": utc_now(), "heartbeat": utc_now()}
    status = make_status(run.identity, "running").model_copy(update={**now, "step": step, "total_steps": 1000})
    write_record(run.path / "status.json", status)


def test_a_running_job_has_a_line_and_the_counts_come_last(runs: list[Run]) -> None:
    lines = ProgressMonitor(runs).lines()
    assert len(lines) == 2
    assert lines[0].startswith("sac Hopper-v4 ")
    assert re.search(r": 400/1000 steps, 100 steps/s, return 80.5, 0:00:06 left$", lines[0])
    assert lines[1] == "1 done, 0 failed, 1 running, 0 left"


def test_the_estimate_falls_as_work_is_done_and_as_time_goes(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(watch, "time", clock)
    monitor = ProgressMonitor(runs)
    assert "about" not in monitor.line()
    clock.now += 100
    run_on(runs[1], 600)
    assert monitor.line().endswith("about 0:03:20 more")
    clock.now += 30
    assert monitor.line().endswith("about 0:02:50 more")
    clock.now += 70
    run_on(runs[1], 800)
    assert monitor.line().endswith("about 0:01:40 more")


def test_all_never_ends_before_what_runs_now(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Random steps, with which off-policy begins, are fast."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(watch, "time", clock)
    monitor = ProgressMonitor(runs)
    clock.now += 1
    run_on(runs[1], 500)
    assert monitor.line().endswith("about 0:00:05 more")


def test_done_runs_are_read_once(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = ProgressMonitor(runs)
    asked: list[Run] = []

    def noted(run: Run) -> State:
        asked.append(run)
        return state_of(run)

    monkeypatch.setattr(watch, "state_of", noted)
    monitor.line()
    assert asked == [runs[1]]


def test_a_terminal_gets_a_block_that_goes_when_all_is_over(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(watch, "Console", lambda **_: console)
    monkeypatch.setattr(watch, "LIVE_SECONDS", 0.01)
    with ProgressMonitor(runs):
        time.sleep(0.2)
    assert "400/1000 steps" in drawn.getvalue()
    assert "1 done, 0 failed, 1 running, 0 left" in drawn.getvalue()
    assert drawn.getvalue().endswith("\x1b[2K")


def test_plain_lines_come_when_something_ended_and_now_and_then(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(watch, "FIRST_QUIET_SECONDS", 0.2)
    with ProgressMonitor(runs):
        time.sleep(1.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 done, 0 failed, 1 running, 0 left"
    assert "400/1000 steps" in lines[1]
    assert 3 <= len(lines) <= 7
