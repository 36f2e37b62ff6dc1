"""Runs that the multiruns of a study planned: `outputs/<study>/.planned.json`. Remove it to forget them."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from compression.files import write_atomic
from rlc.runs.files import OUTPUTS, read_json
from rlc.runs.outline import Outline, Who
from rlc.runs.state import Seen

PLANNED_FILE = ".planned.json"
LOCK = ".planned.lock"


def note_planned(runs: Iterable[Seen]) -> None:
    """Add the runs that have no directory yet to those of earlier commands, and drop what has been begun since."""
    by_study: dict[Path, list[Seen]] = defaultdict(list)
    for run in runs:
        by_study[OUTPUTS / run.path.relative_to(OUTPUTS).parts[0]].append(run)
    for home, group in by_study.items():
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / LOCK):
            planned = _read(home) | {run.path: run.who for run in group}
            waiting = {str(path.relative_to(home)): vars(who) for path, who in planned.items() if not path.exists()}
            write_atomic(home / PLANNED_FILE, json.dumps({"runs": waiting}).encode())


def not_begun(study: str) -> list[Outline]:
    """The runs that were planned and have no directory."""
    planned = _read(OUTPUTS / study)
    return [Outline(path, who, None, False, None, {}) for path, who in planned.items() if not path.exists()]


def _read(home: Path) -> dict[Path, Who]:
    """The planned runs by directory; none where the file is missing or torn."""
    data = read_json(home / PLANNED_FILE) or {}
    try:
        return {home / folder: Who(**who) for folder, who in data["runs"].items()}
    except (AttributeError, KeyError, TypeError):
        return {}
