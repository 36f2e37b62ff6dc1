"""Progress of a training: a live bar on a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Steps, steps per second, last return and time left; use as a context manager."""

    def __init__(self, title: str, total_steps: int) -> None:
        self.title, self.total_steps = title, total_steps
        self.console = Console(highlight=False)
        self.began = time.monotonic()
        self.bar: Progress | None = None
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]:.0f} steps/s  return {task.fields[last_return]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
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

    def update(self, step: int, speed: float, last_return: float | None, milestone: bool) -> None:
        """Called often; without a terminal only milestones are printed."""
        shown = "-" if last_return is None else f"{last_return:.1f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, speed=speed, last_return=shown)
        elif milestone:
            left = (time.monotonic() - self.began) / step * (self.total_steps - step)
            clock = timedelta(seconds=round(left))
            line = f"{self.title}: {step}/{self.total_steps} steps, {speed:.0f} steps/s"
            print(f"{line}, return {shown}, {clock} left", flush=True)
