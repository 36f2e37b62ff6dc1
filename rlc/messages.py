"""What a command tells its user besides results: one line on stderr."""

import sys


def one_line(text: str) -> str:
    """The text with every run of white space, line breaks included, as one space."""
    return " ".join(text.split())


def say(text: str) -> None:
    print(f"rlc: {one_line(text)}", file=sys.stderr, flush=True)
