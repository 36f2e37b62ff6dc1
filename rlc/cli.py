"""Command lines of the small commands: key=value, checked before anything happens."""

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlc.messages import did_you_mean, of_the_system, raise_at_ctrl_c, warn
from trainers.errors import UserError


def split(arguments: Sequence[str], keys: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's own keys, and the other arguments. Raises UserError for a key given twice."""
    values: dict[str, str] = {}
    rest = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in keys:
            rest.append(argument)
        elif key in values:
            raise UserError(f"{argument}: {key} is given twice; give it once")
        else:
            values[key] = value
    return values, rest


def positional(arguments: Sequence[str], key: str) -> list[str]:
    """The arguments, of which the first word without `=` stands for the value of a key.

    A second one is left as it is, and refused as unknown by what reads them.
    """
    for number, argument in enumerate(arguments):
        if "=" not in argument and not argument.startswith("-"):
            return [*arguments[:number], f"{key}={argument}", *arguments[number + 1 :]]
    return list(arguments)


def only(arguments: Sequence[str], keys: Collection[str], required: Collection[str]) -> dict[str, str]:
    """As `split`, where nothing else is allowed. Raises UserError for what is unknown or missing."""
    values, rest = split(arguments, keys)
    if rest:
        raise UserError(f"{rest[0]}: unknown; allowed: {', '.join(f'{key}=...' for key in keys)}")
    for key in required:
        if not values.get(key):
            raise UserError(f"{key}: none given; add {key}=...")
    return values


def configured(arguments: Sequence[str], defaults: Path) -> dict[str, Any]:
    """The values of a file of defaults, changed by key=value. Raises UserError for a key it does not have."""
    config = OmegaConf.load(defaults)
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not equals or not isinstance(node, DictConfig) or leaf not in node or isinstance(node[leaf], DictConfig):
            siblings = [str(name) for name in (node if isinstance(node, DictConfig) else config)]
            raise UserError(f"{argument}: no such key{did_you_mean(leaf, siblings)}")
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(list(arguments))), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(str(error)) from error
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def defaults_of(file: Path) -> dict[str, str]:
    """The defaults in a file of conf/, without those that are null, as they would stand on a command line."""
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    told = {str(key): value for key, value in config.items() if value is not None}
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in told.items()}


def given_path(text: str) -> Path:
    """A path of the command line. `~` is the home directory, which shells leave alone behind `key=`."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: {error}; allowed: ~/ for your own, or the whole path") from error


def run_command(command: Callable[[list[str]], None]) -> None:
    """Run a command on the arguments of the process. Bad input is one line and exit code 2."""
    raise_at_ctrl_c()
    try:
        command(sys.argv[1:])
    except (UserError, OSError) as error:
        warn(of_the_system(error) if isinstance(error, OSError) else str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        warn("interrupted")
        sys.exit(130)
