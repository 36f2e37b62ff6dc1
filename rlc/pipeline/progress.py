"""Progress of a training: a live bar on a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINES = 20
SPEED_WINDOW_SECONDS = 3.0


class TrainingProgress:
    """Steps, steps per second, last return and time left; use as a context manager."""

    def __init__(self, title: str, total_steps: int, step: int = 0) -> None:
        """`step`: where the training begins, or goes on."""
        self.title = title
        self.total_steps = total_steps
        self.since = time.monotonic()
        self.since_step = step
        self.lines = step * LINES // total_steps
        self.speed = 0.0
        self.bar: Progress | None = None
        console = Console(highlight=False)
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]:.0f} steps/s, return {task.fields[last_return]},"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console,
            )
            self.task = self.bar.add_task(title, total=total_steps, speed=0.0, last_return="-")

    def __enter__(self) -> "TrainingProgress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, last_return: float | None) -> None:
        """Called often: moves the bar, or prints the line that is due."""
        now = time.monotonic()
        line_due = self.bar is None and step * LINES >= (self.lines + 1) * self.total_steps
        # A line tells the speed since the line before, with the evaluation that lies between them.
        if line_due or (self.bar is not None and now - self.since >= SPEED_WINDOW_SECONDS):
            self.speed = (step - self.since_step) / (now - self.since)
            self.since = now
            self.since_step = step
        return_text = "-" if last_return is None else f"{last_return:.1f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, speed=self.speed, last_return=return_text)
        elif line_due:
            self.lines = step * LINES // self.total_steps
            left = timedelta(seconds=round((self.total_steps - step) / self.speed))
            line = f"{self.title}: {step}/{self.total_steps} steps, {self.speed:.0f} steps/s"
            print(f"{line}, return {return_text}, {left} left", flush=True)
