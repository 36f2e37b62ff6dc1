"""What --help says of a command, made from the comments in conf/ before anything slow is imported."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from rlc.comments import Setting, bases, head, settings
from rlc.datafiles import CONF
from rlc.messages import warn
from rlc.sources import find_file, reading, split_sources
from trainers.errors import UserError

HELP_FLAGS = ("-h", "--help")
GROUPS = ("algo", "compress")
LEARN_MORE = {
    "train": "Name +algo=<name> and +compress=<name> beside --help for the settings of both. What a command line\n"
    "stands for: --dry-run, or --cfg job for all its settings. Your own files beside conf/: --config-dir <directory>.",
    "compress": "Name +compress=<name> beside --help for the settings of a method.",
}


def asked_for(words: Sequence[str]) -> str | None:
    """The command of `python -m rlc.<command> ... --help`, given all words of the process; None for anything else."""
    if "-m" not in words:
        return None
    module, *arguments = words[words.index("-m") + 1 :]
    package, _, command = module.partition(".")
    if package != "rlc" or not set(HELP_FLAGS) & set(arguments) or not (CONF / f"{command}.yaml").is_file():
        return None
    return command


def usage(command: str, arguments: Sequence[str]) -> str:
    """What it does, examples, and every setting of it and of the files that the arguments choose."""
    path = CONF / f"{command}.yaml"
    lines = head(path)
    examples = [line for line in lines if line.startswith("python -m ")]
    parts = [" ".join(line for line in lines if line not in examples)]
    parts.append("\n".join(["Examples:", *(f"  {line}" for line in examples)]))
    parts.append("\n".join(["Settings, as key=value:", *_listed(list(settings(path)), "")]))
    for argument in arguments:
        group, _, name = argument.lstrip("+").partition("=")
        chosen = find_file(group, name) if group in GROUPS and re.fullmatch(r"\w+", name) else None
        if chosen is not None:
            inherited = " ".join(f"Others: as of +{group}={base.stem}." for base in bases(chosen))
            title = " ".join([f"With +{group}={name}:", *head(chosen), inherited]).strip()
            parts.append("\n".join([title, *_listed(list(settings(chosen)), f"{group}.")]))
    parts += [LEARN_MORE[command]] if command in LEARN_MORE else []
    return "\n\n".join(parts)


def _listed(found: Sequence[Setting], prefix: str) -> Iterator[str]:
    """A line for each setting, with the meaning behind it, in as many lines as it needs."""
    width = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    for setting in found:
        given = "" if setting.default is None else f"={_default(setting.default)}"
        start = f"  {prefix}{setting.key}{given}".ljust(34)
        text = f"{start}  {setting.meaning}"
        yield textwrap.fill(text, width, subsequent_indent=36 * " ", break_long_words=False, break_on_hyphens=False)


def _default(written: str) -> str:
    """A default as it stands in conf/, where that is to be read."""
    if written == "???":
        return "<must be given>"
    variable = re.fullmatch(r"\$\{variable:(\w+),(\w+)\}", written)
    by_env = re.fullmatch(r"\$\{by_env:([^,]+),.*", written)
    if variable:
        return f"{variable[2]} (or ${variable[1]})"
    return f"{by_env[1]} (by environment)" if by_env else written


def answer() -> None:
    """Print the help and end, where this process was asked for it."""
    command = asked_for(sys.orig_argv)
    if command is None:
        return
    try:
        directories, arguments = split_sources(sys.argv[1:])
    except UserError as error:
        warn(str(error))
        sys.exit(2)
    with reading(directories):
        print(usage(command, arguments))
    sys.exit(0)
