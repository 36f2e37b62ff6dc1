"""Ctrl-C and termination, held back until what is under way can be left."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from rlc.messages import warn


class HeldSignals:
    """SIGINT and SIGTERM are noted instead of raised, in the main thread. A second SIGINT is raised."""

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        """`tell` is called when the first signal comes."""
        self.tell = tell
        self.noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Exception):  # such as a compiler that heard the Ctrl-C too
            self.release()

    def release(self) -> None:
        """Raise KeyboardInterrupt or SystemExit for a signal that was noted."""
        if self.noted == signal.SIGINT:
            raise KeyboardInterrupt
        if self.noted is not None:
            sys.exit(128 + self.noted)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.noted is None and number == signal.SIGINT and sys.stdout.isatty():
            warn("interrupted: writing a checkpoint; another Ctrl-C ends without one")
        if self.noted is None and self.tell is not None:
            self.tell()
        self.noted = self.noted or number


def signals_are_held() -> bool:
    """Whether a `HeldSignals` of this process takes Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    return isinstance(getattr(handler, "__self__", None), HeldSignals)
