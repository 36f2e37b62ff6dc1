"""What a command tells its user besides results: one line on stderr."""

import difflib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from trainers.errors import one_line

# Names that settings had, by their last part.
OLD_NAMES = {"along": "evaluations", "longest_s": "max_window_s", "copies": "num_copies", "then": "follow_ups"}


def warn(text: str) -> None:
    """Print one line on stderr."""
    print(f"rlc: {one_line(text)}", file=sys.stderr, flush=True)


def of_the_system(error: OSError) -> str:
    """An error of the operating system, with the way out of a full disk and of a folder that is not ours."""
    ways = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space")
    ways |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable for you")
    way = ways.get(error.errno or 0)
    return f"{error}; {way}, or start the command in another directory" if way else str(error)


def leave(_number: int, _frame: FrameType | None) -> None:
    """End the process at once, with one line."""
    warn("interrupted")
    os._exit(130)


def leave_at_ctrl_c() -> None:
    """Have Ctrl-C end the process, as long as modules are imported: a library in C may turn it into an error.

    A Ctrl-C that is ignored, as behind nohup, stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def raise_at_ctrl_c() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, after `leave_at_ctrl_c`."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: 1 run, 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(word: str, offered: Sequence[str]) -> str:
    """The end of a message about an unknown word: what was perhaps meant, and what is allowed."""
    close = difflib.get_close_matches(OLD_NAMES.get(word, word), offered, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{hint}; allowed: {', '.join(offered)}" if offered else hint
