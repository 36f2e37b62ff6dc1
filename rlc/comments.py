"""What the comments in conf/ say: every setting with its default and its meaning."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rlc.datafiles import CONF

# Parts of a file that are no settings of a job: Hydra's own, and names that the choice of the file settles.
LEFT_OUT = {"defaults", "hydra", "name", "method"}


class Setting(NamedTuple):
    """A key of a configuration file, its default as written there (None for a group of settings), and its meaning."""

    key: str
    default: str | None
    meaning: str


def settings(path: Path) -> Iterator[Setting]:
    """The settings of a file in `conf/`, in order; a meaning it lacks is that of the file its defaults name."""
    inherited = {name: setting.meaning for base in bases(path) for name, setting in by_key(base).items()}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in path.read_text().splitlines()[len(head(path)) :]:
        found = re.fullmatch(r"( *)([\w/]+):(?: +([^#\s].*?))?(?: *# (.*))?", line)
        if found is None:
            comment = re.fullmatch(r" *# (.*)", line)
            above = [*above, comment[1]] if comment else []
            continue
        indent = len(found[1])
        parents = [parent for parent in parents if parent[0] < indent]
        names = [name for _, name in parents] + [found[2]]
        parents.append((indent, found[2]))
        # A remark beside the key comes first, then the lines above it.
        meaning = ". ".join(part for part in (found[4], " ".join(above)) if part)
        above = []
        key = ".".join(names)
        meaning = meaning or inherited.get(key, "")
        if names[0] not in LEFT_OUT and (found[3] or meaning):
            yield Setting(key, found[3], meaning)


def by_key(path: Path) -> dict[str, Setting]:
    """The settings of a file in `conf/` by their keys."""
    return {setting.key: setting for setting in settings(path)}


def head(path: Path) -> list[str]:
    """The lines of the comment that a file begins with."""
    lines = path.read_text().splitlines()
    return [line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


def bases(path: Path) -> list[Path]:
    """The files of the same group that a file's list of defaults begins with: beside it, or in conf/."""
    block = re.search(r"^defaults:\n((?: +- .*\n)+)", path.read_text(), re.M)
    names = re.findall(r"- (\w+)$", block[1], re.M) if block else []
    beside = [path.with_name(f"{name}.yaml") for name in names if name != "_self_"]
    return [file if file.is_file() else CONF / path.parent.name / file.name for file in beside]
