"""A multirun, watched while it lasts: a live block on a terminal, plain lines now and then elsewhere."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rlc.grid.estimate import seconds
from rlc.runs.run import Run
from rlc.runs.state import State, state_of
from rlc.runs.stored import EVALUATION, METRICS_FILE, parse_metrics
from rlc.runs.wording import without_shared

WATCH_SECONDS = 5.0
LIVE_SECONDS = 2.0
# Between two plain lines that say nothing of an end: at first, and at most; it doubles each time.
FIRST_QUIET_SECONDS = 30.0
LONGEST_QUIET_SECONDS = 600.0
ENDED = ("done", "failed")
Rows = list[dict[str, float]]


class Running(NamedTuple):
    """A run that is running, and its learning curve so far, which is read once for all that is said of it."""

    run: Run
    state: State
    rows: Rows


class ProgressMonitor:
    """Shows what each running job does, how many runs are done, failed and left, and how long all may take."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.began = time.monotonic()
        self._done: dict[Path, State] = {}
        self._work = _work(runs)
        self._names = dict(zip([run.path for run in runs], _names(runs), strict=True))
        self._done_before = self._work_done(self._states())
        self._work_then = self._done_before
        self._end: float | None = None
        """When all may be done, as estimated when the work was last seen to have grown."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProgressMonitor":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        console = Console(highlight=False)
        if console.is_terminal:
            self._draw(console)
        else:
            self._tell()

    def _draw(self, console: Console) -> None:
        """The live block, drawn again and again; it goes when all is over."""
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                lines = self.lines()
                live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
                if self._over.wait(LIVE_SECONDS):
                    return

    def _tell(self) -> None:
        """A plain line whenever a run has ended or begun, and all of the block where nothing did for a while."""
        quiet = FIRST_QUIET_SECONDS
        told = time.monotonic()
        last: list[str] = []
        while not self._over.wait(WATCH_SECONDS):
            states = self._states()
            now = [state.state for state in states]
            if now == last and time.monotonic() - told < quiet:
                continue
            if now == last:
                quiet = min(2 * quiet, LONGEST_QUIET_SECONDS)
            lines = self._lines(states)
            print("\n".join(lines if now == last else lines[-1:]), flush=True)
            told = time.monotonic()
            last = now

    def line(self) -> str:
        """Counts, and the time left."""
        return self.lines()[-1]

    def lines(self) -> list[str]:
        """A line for each run that is running, and the counts."""
        return self._lines(self._states())

    def _lines(self, states: Sequence[State]) -> list[str]:
        running = self._running(states)
        doing = [f"{self._names[run.path]}: {_doing(state, rows)}" for run, state, rows in running]
        return [*doing, self._total(states, running)]

    def _running(self, states: Sequence[State]) -> list[Running]:
        """The runs that are running."""
        found = [(run, state) for run, state in zip(self.runs, states, strict=True) if state.state == "running"]
        return [Running(run, state, _rows(run)) for run, state in found]

    def _total(self, states: Sequence[State], running: Sequence[Running]) -> str:
        """Counts, and the time left at the speed so far, by the work that the runs mean."""
        counts = Counter(state.state for state in states)
        left = len(self.runs) - counts["done"] - counts["failed"] - counts["running"]
        line = f"{counts['done']} done, {counts['failed']} failed, {counts['running']} running, {left} left"
        more = self._seconds_left(self._work_done(states))
        if more is None:
            return line
        # Off-policy begins with random steps, which are fast: at their speed all would end before what runs now does.
        more = max([more, *(_seconds_of(state, rows) for _, state, rows in running)])
        return f"{line}, about {timedelta(seconds=round(more))} more"

    def _seconds_left(self, work: float) -> float | None:
        """None while nothing can be said. Heartbeats come every ten seconds: in between the time runs down."""
        rest = sum(self._work) - work
        if work <= self._done_before or rest <= 0:
            return None
        now = time.monotonic()
        if self._end is None or work != self._work_then:
            self._work_then = work
            self._end = now + (now - self.began) / (work - self._done_before) * rest
        return max(0.0, self._end - now)

    def _states(self) -> list[State]:
        """Of every run; what is done once stays done, where nothing is done again."""
        states = []
        for run in self.runs:
            state = self._done.get(run.path) or state_of(run)
            if state.state == "done" and not run.settings.overwrite:
                self._done[run.path] = state
            states.append(state)
        return states

    def _work_done(self, states: Sequence[State]) -> float:
        """The work of the runs that ended, and of the others the share of their steps."""
        shares = [1.0 if state.state in ENDED else _share(state) for state in states]
        return sum(work * share for work, share in zip(self._work, shares, strict=True))


def _share(state: State) -> float:
    return state.step / state.total_steps if state.total_steps else 0.0


def _work(runs: Sequence[Run]) -> list[float]:
    """Seconds that each run may take on one core; the mean of the others where no speed is known."""
    found = [seconds(run.settings) for run in runs]
    known = [value for value in found if value is not None]
    mean = sum(known) / len(known) if known else 1.0
    return [mean if value is None else value for value in found]


def _names(runs: Sequence[Run]) -> list[str]:
    """What the runs are called, without what all of them share."""
    words = without_shared([run.words for run in runs])
    return [f"{r.settings.algo.name} {r.settings.env.id} {w} seed {r.seed}" for r, w in zip(runs, words, strict=True)]


def _doing(state: State, rows: Rows) -> str:
    """Step, speed, return and time left of a run in training."""
    if not state.total_steps:
        return "compressing and evaluating"
    if state.step >= state.total_steps:
        return "evaluating"
    speed = _newest(rows, "charts/SPS")
    score = _newest(rows, EVALUATION, "charts/episodic_return")
    told = [f"{state.step}/{state.total_steps} steps"]
    told += [f"{speed:.0f} steps/s"] if speed else []
    told += [] if score is None else [f"return {score:.1f}"]
    told += [f"{timedelta(seconds=round(_seconds_of(state, rows)))} left"] if speed else []
    return ", ".join(told)


def _seconds_of(state: State, rows: Rows) -> float:
    """Seconds that a run takes yet at its newest speed; 0 where that is not known, or it does not train."""
    speed = _newest(rows, "charts/SPS") if state.total_steps else None
    return (state.total_steps - state.step) / speed if speed else 0.0


def _rows(run: Run) -> Rows:
    """The learning curve so far, without a last line that is half written; none where there is no file yet."""
    try:
        return parse_metrics((run.path / METRICS_FILE).read_text().rpartition("\n")[0])
    except OSError:
        return []


def _newest(rows: Rows, *columns: str) -> float | None:
    """The last value in one of these columns; None where there is none yet."""
    for row in reversed(rows):
        for column in columns:
            if column in row:
                return row[column]
    return None
