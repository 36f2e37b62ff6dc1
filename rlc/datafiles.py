"""Tables that come with rlc."""

import csv
import functools
from pathlib import Path

DATA = Path(__file__).parent / "data"


@functools.cache
def read(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file in rlc/data/, by column."""
    return list(csv.DictReader((DATA / name).read_text().splitlines()))
