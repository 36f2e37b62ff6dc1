"""A multirun, watched while it lasts."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType

from rlc.runs.run import Run
from rlc.runs.state import state_of

WATCH_SECONDS = 5.0


class ProgressMonitor:
    """Says on the terminal how many runs of a multirun are done, failed, running and left, while it lasts."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.began = time.monotonic()
        self.before = sum(run.finished() for run in runs)
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
