"""What a command tells its user besides results: one line on stderr."""

import difflib
import sys
from collections.abc import Sequence


def one_line(text: str) -> str:
    """The text with every run of white space, line breaks included, as one space."""
    return " ".join(text.split())


def say(text: str) -> None:
    print(f"rlc: {one_line(text)}", file=sys.stderr, flush=True)


def closest(word: str, offered: Sequence[str]) -> str:
    """The end of a message about an unknown word: what was perhaps meant, and what is allowed."""
    close = difflib.get_close_matches(word, offered, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{hint}; allowed: {', '.join(offered)}" if offered else hint
