"""Where configuration files lie: conf/, and directories of the user's own that a command line names.

`--config-dir DIR` and `hydra.searchpath=[DIR,...]` are Hydra's words for it, and mean the same here: files in
`DIR/algo/`, `DIR/env/`, `DIR/compress/`, `DIR/experiment/` and `DIR/hydra/` can be chosen as those of conf/ can.
"""

import functools
import importlib.util
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from rlc.datafiles import CONF
from trainers.errors import UserError

FLAGS = ("--config-dir", "-cd")
KEY = "hydra.searchpath"
FOLDERS = ("algo", "env", "compress", "experiment", "hydra/launcher", "hydra/sweeper")
P = ParamSpec("P")
R = TypeVar("R")
# The user's own directories, beside conf/, while a command line is read.
_own: ContextVar[tuple[Path, ...]] = ContextVar("own", default=())


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--config-dir DIR` as one word. Raises UserError where no directory follows."""
    words = []
    rest = iter(arguments)
    for word in rest:
        flag, equals, _ = word.partition("=")
        if flag in FLAGS and not equals:
            word = f"{flag}={next(rest, '')}"
        if flag in FLAGS and word.endswith("="):
            raise UserError(f"{flag}: no directory behind it; write {flag} <directory>")
        words.append(word)
    return words


def split_sources(arguments: Sequence[str]) -> tuple[tuple[Path, ...], list[str]]:
    """The directories that arguments name, absolute, and the other arguments.

    Raises UserError for a directory that is not there or has nothing to choose, and for a file that would not be read
    because one of the same name comes before it.
    """
    directories: dict[Path, None] = {}
    rest = []
    for word in joined(arguments):
        flag, _, value = word.partition("=")
        if flag in FLAGS:
            directories[_directory(value, word)] = None
        elif flag.lstrip("+") == KEY:
            for entry in _entries(value, word):
                directories[_directory(entry, word)] = None
        else:
            rest.append(word)
    _check_names(directories)
    return tuple(directories), rest


def searchpath(directories: Iterable[Path]) -> list[str]:
    """The directories as Hydra takes them: one override, or none."""
    quoted = [f'"file://{_escaped(str(path))}"' for path in directories]
    return [f"{KEY}=[{','.join(quoted)}]"] if quoted else []


@contextmanager
def reading(directories: tuple[Path, ...]) -> Iterator[None]:
    """Have configurations composed of the files in these directories too."""
    token = _own.set(directories)
    try:
        yield
    finally:
        _own.reset(token)


def own_directories() -> tuple[Path, ...]:
    """The user's directories that are read now."""
    return _own.get()


def choices(group: str) -> list[str]:
    """Names of the files of a group."""
    return sorted({path.stem for folder in (CONF, *own_directories()) for path in (folder / group).glob("*.yaml")})


def is_own(group: str, name: str) -> bool:
    """Whether a file is the user's own, rather than one of conf/."""
    return not (CONF / group / f"{name}.yaml").is_file() and name in choices(group)


def find_file(group: str, name: str) -> Path | None:
    """The file of a choice; None where there is none."""
    paths = [folder / group / f"{name}.yaml" for folder in (CONF, *own_directories())]
    return next((path for path in paths if path.is_file()), None)


class cached(Generic[P, R]):  # noqa: N801 (a decorator)
    """A function that remembers its results, and tells apart which directories were read."""

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._results: dict[Hashable, R] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = own_directories(), args, tuple(kwargs.items())
        if key not in self._results:
            self._results[key] = self._function(*args, **kwargs)
        return self._results[key]

    def cache_clear(self) -> None:
        """Forget all results."""
        self._results.clear()


def _entries(value: str, word: str) -> list[str]:
    """The entries of a list as it stands on a command line."""
    if not (value.startswith("[") and value.endswith("]")):
        raise UserError(f"{word}: allowed: a list of directories, {KEY}=[<directory>,...]")
    return [entry.strip().strip("\"'") for entry in value[1:-1].split(",") if entry.strip()]


def _directory(entry: str, word: str) -> Path:
    if entry.startswith("pkg://"):
        name = entry.removeprefix("pkg://").replace("/", ".")
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            found = None
        places = list((found.submodule_search_locations if found else None) or [])
        if not places:
            raise UserError(f"{word}: {name} is no package that can be imported here")
        return Path(places[0]).resolve()
    path = Path(entry.removeprefix("file://")).expanduser()
    if not path.is_dir():
        raise UserError(f"{word}: {path} is no directory; allowed: one that has {', '.join(f'{f}/' for f in FOLDERS)}")
    return path.resolve()


def _check_names(directories: Iterable[Path]) -> None:
    first: dict[str, Path] = {}
    for folder in (CONF, *directories):
        files = [path for name in FOLDERS for path in sorted((folder / name).glob("*.yaml"))]
        if not files:
            named = ", ".join(f"{name}/" for name in FOLDERS)
            raise UserError(f"{folder}: has no file that could be chosen: .yaml in {named}")
        for path in files:
            name = str(path.relative_to(folder))
            before = first.setdefault(name, path)
            if before is not path:
                raise UserError(f"{path}: would not be read, {before} comes before it; give it another name")


def _escaped(path: str) -> str:
    """A path between double quotes in Hydra's grammar."""
    return path.replace("\\", "\\\\").replace('"', '\\"')
