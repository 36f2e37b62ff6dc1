"""How far a grid is: python -m rlc.status study=default, or with the words of rlc.train for the missing runs too."""

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from rich import box
from rich.table import Column, Table

from rlc.arguments import only, run_command
from rlc.plan import make_plan
from rlc.restore import unpack_own
from rlc.runs import FINAL_WEIGHTS, FIRST_OBSERVATIONS, INITIAL_WEIGHTS, OUTPUTS, Run, RunDirectory, all_runs
from rlc.table import print_table
from trainers.errors import UserError

# A run without a heartbeat for so long is lost, unless its process is seen alive on this machine.
LOST_SECONDS = 120
WATCH_SECONDS = 5.0


@dataclass(frozen=True)
class State:
    """What the files of a run say of it."""

    run: str
    state: str
    """done, running, lost (its process is gone), failed or missing."""
    step: int
    total_steps: int
    heartbeat_age_s: float | None
    left_s: float | None
    """Of the training, at its speed so far; null where it has not moved yet."""
    error: str | None


def state_of(run: RunDirectory) -> State:
    """How far a run is."""
    status = run.status()
    if status is None:
        return State(run.name, "missing", 0, 0, None, None, None)
    if status["state"] == "done":
        whole = run.finished()
        error = None if whole else "a file of it is missing or damaged"
        return State(run.name, "done" if whole else "failed", status["step"], status["total_steps"], None, None, error)
    age = _seconds_since(status["heartbeat"])
    state, step, total = status["state"], status["step"], status["total_steps"]
    if state == "running" and not _alive(status, age):
        state = "lost"
    left = None
    if state == "running" and step:
        left = (_seconds_since(status["started"]) - age) / step * (total - step)
    return State(run.name, state, step, total, age, left, status["error"])


def status(arguments: list[str]) -> None:
    """Print the state of the runs of a study, or of exactly those that the arguments of rlc.train stand for."""
    as_json = "--json" in arguments
    rest = [argument for argument in arguments if argument != "--json"]
    if all(argument.startswith("study=") for argument in rest):
        study = only(rest, ("study",), required=()).get("study", "default")
        unpack_own(study)
        runs: Sequence[RunDirectory] = all_runs(study)
        if not runs:
            raise UserError(f"study={study}: there is no run in {OUTPUTS / study}")
    else:
        jobs = make_plan(rest).jobs
        for study in sorted({job.settings.study for job in jobs}):
            unpack_own(study)
        runs = [Run(job, seed) for job in jobs for seed in job.settings.seed]
    states = [state_of(run) for run in runs]
    if as_json:
        print(json.dumps([asdict(state) for state in states], indent=1))
    else:
        _show(states)
    refuse_repeated(runs)


def refuse_repeated(runs: Iterable[RunDirectory]) -> None:
    """Raises UserError where runs of different seeds began, or ended, the same."""
    seen: dict[tuple[Path, str, str], RunDirectory] = {}
    for run in runs:
        for kind in (FIRST_OBSERVATIONS, INITIAL_WEIGHTS, FINAL_WEIGHTS):
            fingerprint = (run.result() or {}).get(kind)
            if fingerprint is None:
                continue
            other = seen.setdefault((run.path.parent, kind, fingerprint), run)
            if other is not run:
                raise UserError(f"{other.path} and {run.path} have the same {kind}: they are no two seeds")


class Watch:
    """Says on the terminal how many runs of a multirun are done, failed, running and left, while it lasts."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.began = time.monotonic()
        self.before = sum(run.finished() for run in runs)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = ""
        while not self._over.wait(WATCH_SECONDS):
            line = self.line()
            if line != last:
                print(line, flush=True)
            last = line

    def line(self) -> str:
        """Counts, and the time left at the speed so far."""
        states = Counter(state_of(run).state for run in self.runs)
        left = len(self.runs) - states["done"] - states["failed"] - states["running"]
        line = f"{states['done']} done, {states['failed']} failed, {states['running']} running, {left} left"
        ended = states["done"] + states["failed"] - self.before
        if ended <= 0 or not left + states["running"]:
            return line
        seconds = (time.monotonic() - self.began) / ended * (left + states["running"])
        return f"{line}, about {timedelta(seconds=round(seconds))} more"


def _show(states: Sequence[State]) -> None:
    table = Table(Column("run", no_wrap=True), "state", box=box.SIMPLE)
    for header in ("step", "heartbeat", "left"):
        table.add_column(header, justify="right")
    table.add_column("error")
    for one in states:
        age = "" if one.heartbeat_age_s is None else f"{one.heartbeat_age_s:.0f} s ago"
        left = "" if one.left_s is None else str(timedelta(seconds=round(one.left_s)))
        table.add_row(one.run, one.state, f"{one.step}/{one.total_steps}", age, left, one.error or "")
    print_table(table)
    counts = Counter(state.state for state in states)
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))


def _alive(status: dict[str, object], age: float) -> bool:
    if status["host"] != socket.gethostname():
        return age < LOST_SECONDS
    try:
        os.kill(int(str(status["pid"])), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


if __name__ == "__main__":
    run_command(status)
