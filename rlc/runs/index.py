"""The outlines of all runs of a study, most of them from `outputs/<study>/.index.json`.

The index is a cache that is right or not used. An entry counts only while every file that it was made of has the same
time of change, size and inode, and while the code that made it is the same. The first line of the file is the hash of
the rest: what is torn or damaged is made again. Nothing needs it, and where the folder cannot be written there is none.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from compression.files import sha256, write_atomic
from rlc.datafiles import CONF, PACKAGE
from rlc.messages import warn
from rlc.runs.files import ARTIFACT, CONFIG_FILE, OUTPUTS, RESULT_FILE, STATUS_FILE
from rlc.runs.outline import Outline, Who, outline_from, read_outline
from trainers.errors import UserError

INDEX_FILE = ".index.json"
MISSING = ("none",)


class Stamp(NamedTuple):
    """By what one sees that the files of a run are those that were read."""

    config: str | None
    """None where there is no such file."""
    rest: str
    """Of status, result and all files of the artifact."""
    newest: int
    """The last change of any of them, in nanoseconds."""


def outlines(study: str) -> list[Outline]:
    """What is known of every run of a study that was begun, in the order of their directories.

    Says which it cannot read. Raises UserError for records of a newer schema.
    """
    home = OUTPUTS / study
    if not home.is_dir():
        return []
    known = _read(home / INDEX_FILE)
    found: list[Outline] = []
    entries: dict[str, Any] = {}
    clock = functools.cache(lambda: _clock(home))
    stale = False
    for folder in sorted(_run_folders(home), key=lambda folder: folder.split("/")):
        path = home / folder
        stamp = stamp_of(path)
        if stamp.config is None:
            continue
        entry = known.get(folder)
        if entry is not None and entry["stamp"] == [stamp.config, stamp.rest]:
            found.append(outline_from(path, entry["outline"]))
            entries[folder] = entry
            continue
        now = clock()
        stamp = stamp_of(path)
        try:
            if entry is not None and entry["stamp"][0] == stamp.config:
                same = True
                who = Who(**entry["outline"]["who"])
            else:
                same = False
                who = _who(path)
        except UserError as error:
            warn(f"left out: {error}")
            continue
        outline = read_outline(path, who)
        found.append(outline)
        # A file that changes once more within the same tick of the clock would keep its times.
        if now is not None and stamp.newest < now:
            entries[folder] = {"stamp": [stamp.config, stamp.rest], "outline": outline.fields()}
            running = outline.record is not None and outline.record.state == "running"
            stale = stale or not (same and running)  # what runs changes with every heartbeat
    if stale or not known.keys() <= entries.keys():
        _write(home / INDEX_FILE, entries)
    return found


def stamp_of(path: Path) -> Stamp:
    """The stamp of a run directory as it is now. Called for every run: strings are faster than paths."""
    folder = str(path)
    config = _state(f"{folder}/{CONFIG_FILE}")
    rest = [_state(f"{folder}/{STATUS_FILE}"), _state(f"{folder}/{RESULT_FILE}")]
    with suppress(OSError):
        names = sorted(os.listdir(f"{folder}/{ARTIFACT}"))  # noqa: PTH208 (faster)
        rest += [(name, *_state(f"{folder}/{ARTIFACT}/{name}")) for name in names]
    times = [number for state in (config, *rest) for number in state[-2:] if isinstance(number, int)]
    return Stamp(None if config is MISSING else _hash(config), _hash(rest), max(times, default=0))


def _state(path: str) -> tuple[Any, ...]:
    """Size, inode and times of a file, or that there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (faster)
    except OSError:
        return MISSING
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _hash(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()


def _run_folders(home: Path) -> Iterator[str]:
    """Run directories of a study, relative to it: <environment>/<algorithm>/<label>/seed<n>."""
    for environment in _folders(str(home)):
        for algorithm in _folders(f"{home}/{environment}"):
            for label in _folders(f"{home}/{environment}/{algorithm}"):
                for run in _folders(f"{home}/{environment}/{algorithm}/{label}"):
                    if run.startswith("seed") and ".old-" not in run:
                        yield f"{environment}/{algorithm}/{label}/{run}"


def _folders(path: str) -> list[str]:
    """Names of the folders in a folder, without hidden ones."""
    with os.scandir(path) as found:
        return [entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir()]


def _who(path: Path) -> Who:
    """Who a run is that the index does not know. Raises UserError where its settings cannot be read."""
    from rlc.runs.stored import load_run  # imports for seconds

    return load_run(path).who


def _clock(home: Path) -> int | None:
    """The time by the clock of the file system, in nanoseconds; None where nothing can be written."""
    probe = home / f"{INDEX_FILE}.{os.getpid()}.tmp"
    try:
        probe.touch()
        now = probe.stat().st_ctime_ns
        probe.unlink()
    except OSError:
        return None
    return now


def _read(file: Path) -> dict[str, Any]:
    """The entries of an index by run directory; none where there is no whole index by this code."""
    try:
        hashed, _, content = file.read_bytes().partition(b"\n")
        if hashed.decode() != sha256(content):
            return {}
        data = json.loads(content)
    except (OSError, ValueError):
        return {}
    return dict(data["entries"]) if data["code"] == _code() else {}


def _write(file: Path, entries: dict[str, Any]) -> None:
    content = json.dumps({"code": _code(), "entries": entries}, separators=(",", ":")).encode()
    with suppress(OSError):
        write_atomic(file, sha256(content).encode() + b"\n" + content)


@functools.cache
def _code() -> str:
    """Changes with the code and the defaults by which settings are read and named."""
    folders = (CONF, PACKAGE, PACKAGE.parent / "compression", PACKAGE.parent / "trainers")
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".yaml")]
    return _hash([(str(path), *_state(str(path))) for path in files])
