"""What a command tells its user besides results: one line on stderr."""

import difflib
import sys
from collections.abc import Sequence

from trainers.errors import one_line

# Names that settings had, by their last part.
OLD_NAMES = {"along": "evaluations", "longest_s": "max_window_s", "copies": "num_copies", "then": "follow_ups"}


def warn(text: str) -> None:
    """Print one line on stderr."""
    print(f"rlc: {one_line(text)}", file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: 1 run, 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(word: str, offered: Sequence[str]) -> str:
    """The end of a message about an unknown word: what was perhaps meant, and what is allowed."""
    close = difflib.get_close_matches(OLD_NAMES.get(word, word), offered, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{hint}; allowed: {', '.join(offered)}" if offered else hint
