"""Files that come with rlc: tables, and the configuration."""

import csv
import functools
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data"
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


@functools.cache
def read(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file in rlc/data/, by column."""
    return list(csv.DictReader((DATA / name).read_text().splitlines()))
