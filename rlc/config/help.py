"""What Hydra answers itself: --help, --cfg and their like."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from rlc.config.compose import HYDRA_ERRORS, check_groups, compose_config, hydra_message, parse_overrides
from rlc.datafiles import CONF
from rlc.sources import reading, searchpath, split_sources
from trainers.errors import UserError

# Each with the words that may follow it.
ANSWERED = {
    "-h": (),
    "--help": (),
    "--hydra-help": (),
    "--version": (),
    "-c": ("job", "hydra", "all"),
    "--cfg": ("job", "hydra", "all"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
BESIDE = ("--resolve", "-p", "--package", "-m", "--multirun")


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _answer(config: DictConfig) -> None:
    """Never called: Hydra answers and ends."""


def answer(arguments: Sequence[str]) -> None:
    """Let Hydra answer a command line that asks it something. Raises UserError for one that it would not understand."""
    directories, arguments = split_sources(arguments)
    lines = [a for a in arguments if "=" in a and not a.startswith("-")]
    flags = [a for a in arguments if a not in lines and a not in ("-m", "--multirun")]
    _check_flags(flags)
    try:
        with reading(directories):
            overrides = parse_overrides(lines)
            check_groups(overrides)
            lines = [str(override.input_line) for override in overrides]
            compose_config(tuple(lines))
    except HYDRA_ERRORS as error:
        raise hydra_message(error, lines) from error
    sys.argv[1:] = [*flags, *lines, *searchpath(directories)]
    _answer()


def _check_flags(flags: Sequence[str]) -> None:
    words: tuple[str, ...] = ()
    package = False
    for flag in flags:
        name, equals, value = flag.partition("=")
        if words and not flag.startswith("-"):
            value = flag
        elif package or flag in BESIDE:
            package = flag in ("-p", "--package")
            continue
        elif name not in ANSWERED:
            allowed = ", ".join((*ANSWERED, *BESIDE, "key=value"))
            raise UserError(f"{flag}: unknown; allowed: {allowed}")
        else:
            words = ANSWERED[name]
            if not equals:
                if words and flag == flags[-1] and name in ("-c", "--cfg"):
                    raise UserError(f"{flag}: of what? allowed: {', '.join(words)}")
                continue
        if value not in words:
            raise UserError(f"{flag}: unknown; allowed: {', '.join(words) or 'nothing behind it'}")
        words = ()
