"""Hydra's part: overrides and the configuration they make of conf/."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from rlc.config.hydra_compat import BasicSweeper
from rlc.config.wandb_variables import variable
from rlc.datafiles import CONF
from rlc.messages import did_you_mean
from rlc.sources import cached, choices, own_directories, reading, searchpath, split_sources
from trainers.envs.names import canonical_id, task_name
from trainers.errors import UserError, one_line

# `env` has a default and is replaced; the others start empty and are added with a plus.
ADDED_GROUPS = ("algo", "compress", "experiment")
GROUPS = ("env", *ADDED_GROUPS)
# Whatever Hydra and OmegaConf raise where arguments cannot be composed.
HYDRA_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError)
# Arguments of the environment's constructor have whatever names it gives them.
ENV_KWARGS = re.compile(r"env\.kwargs(?=[.=]|$)")


def compose_groups(arguments: Sequence[str]) -> dict[str, Any]:
    """The composed configuration of arguments that name no algorithm. Raises UserError in one line."""
    directories, rest = split_sources(arguments)
    with reading(directories):
        return _compose_groups(rest)


def _compose_groups(arguments: Sequence[str]) -> dict[str, Any]:
    try:
        overrides = parse_overrides(arguments)
        check_groups(overrides)
        for override in overrides:
            if override.is_sweep_override() or override.key_or_group in ("algo", "experiment"):
                raise UserError(
                    f"{override.input_line}: one policy is compressed here, and nothing trained; leave "
                    "it out, or use rlc.train"
                )
        check_keys(overrides, unresolved_config)
        return compose_settings(tuple(str(override.input_line) for override in overrides), without=("algo",))
    except HYDRA_ERRORS as error:
        raise hydra_message(error, arguments) from error


def hydra_message(error: Exception, arguments: Sequence[str]) -> UserError:
    """What Hydra says of arguments, without its advice, which is meant for other programs."""
    text = one_line(str(error))
    for advice in ("See https://", "To append to your config", "Set the environment variable", "full_key:"):
        text = text.partition(advice)[0]
    named = [argument for argument in arguments if "${" in argument]
    if isinstance(error, InterpolationResolutionError | GrammarParseError) and named:
        return UserError(
            f"{shortened(named[0])}: {text}; allowed: ${{<setting>}} of one that there is, or \\${{ for the characters"
        )
    found = re.match(r"Could not override '(.*?)'", text)
    if found:
        given = next((argument for argument in arguments if found[1] in argument), found[1])
        text = f"{shortened(given)}: no such key"
    return UserError(f"{text}; allowed: the keys that `--cfg all` shows" if found else text)


def shortened(argument: str) -> str:
    """An argument in a message."""
    return argument if len(argument) <= 100 else f"{argument[:100]}..."


def default_settings() -> dict[str, Any]:
    """What conf/train.yaml says, without an algorithm."""
    return compose_settings((), without=("algo",))


def _by_env(default: Any, by_name: dict[str, Any], *, _root_: DictConfig) -> Any:
    """`${by_env:3.0e-4,{HalfCheetah:1.0e-3}}` in conf/algo/: a default, and values for environments of any version."""
    return by_name.get(task_name(str(_root_.env.id)), default)


OmegaConf.register_new_resolver("by_env", _by_env, replace=True)
OmegaConf.register_new_resolver("max", max, replace=True)
OmegaConf.register_new_resolver("variable", variable, replace=True)


@cached
def compose_settings(overrides: tuple[str, ...], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The composed configuration as plain data, without Hydra's part and the keys in `without`."""
    config = compose_config(overrides)
    return resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("hydra", *without)]))


def resolved(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain data. Raises OmegaConfBaseException for what is missing or refers to nothing."""
    # Before other settings are resolved: their defaults may depend on it.
    config.env.id = canonical_id(str(config.env.id))
    data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


@cached
def compose_config(overrides: tuple[str, ...]) -> DictConfig:
    """The configuration that Hydra composes from conf/train.yaml and overrides."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [*overrides, *searchpath(own_directories())], return_hydra_config=True)
    except (ValueError, TypeError, AttributeError) as error:  # Hydra's, of a choice or a file of another shape
        text = one_line(str(error)).partition("; use sys.")[0]
        given = shortened(" ".join(overrides))
        raise UserError(f"{given}: cannot be composed: {text}; allowed: names of files in conf/") from error


@cached
def unresolved_config(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The composed configuration as plain data, interpolations as they stand, without Hydra's part."""
    config = compose_config(overrides)
    data = OmegaConf.to_container(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def parse_overrides(lines: Sequence[str]) -> list[Override]:
    """Arguments as Hydra reads them. Raises HydraException for what is no override, UserError for too long a number."""
    return [_without_glob(_parsed(line)) for line in lines]


def _without_glob(override: Override) -> Override:
    """`+algo=glob(*)` as the list of names that it stands for."""
    value = override.value()
    if not isinstance(value, Glob):
        return override
    group = override.key_or_group
    if group not in GROUPS:
        raise UserError(
            f"{override.input_line}: glob(...) chooses among files, so it is for {', '.join(GROUPS)}; "
            "allowed here: a list such as 1,2 or range(1,3)"
        )
    names = value.filter(choices(group))
    if not names:
        raise UserError(f"{override.input_line}: matches none; allowed: names among {', '.join(choices(group))}")
    return _parsed(f"{override.get_key_element()}={','.join(names)}")


# A grid has few lines, many times.
@cached
def _parsed(line: str) -> Override:
    try:
        (override,) = OverridesParser.create().parse_overrides([_added(line)])
    except (HydraException, RecursionError, ValueError) as error:
        why = "a number has too many digits" if isinstance(error, ValueError) else str(error).partition("See http")[0]
        raise UserError(
            f"{shortened(line)}: {why}; allowed: key=value, with quotes inside where a value has special "
            "characters, as in 'key=\"a,b\"'"
        ) from error
    return override


def _added(line: str) -> str:
    """An argument of the environment's constructor as Hydra takes it, for a key that no file in conf/ has."""
    return f"++{line}" if ENV_KWARGS.match(line) else line


def is_group(override: Override) -> bool:
    """Whether an override chooses a file of conf/."""
    return override.key_or_group in GROUPS


def is_hydra(override: Override) -> bool:
    """Whether an override is one of Hydra's own settings."""
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


def values_of(override: Override) -> list[str]:
    """The values of an override as text: several for a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.value())]


def first_value(override: Override) -> str:
    """An override with the first of its values."""
    return f"{override.get_key_element()}={values_of(override)[0]}"


def check_groups(overrides: list[Override]) -> None:
    """One choice per group, with a plus where there is no default, and only what conf/ offers."""
    for group in GROUPS:
        mine = [o for o in overrides if o.key_or_group == group]
        plus = "+" if group in ADDED_GROUPS else ""
        if len(mine) > 1:
            lines = " ".join(str(o.input_line) for o in mine)
            raise UserError(f"{lines}: {group} is given {len(mine)} times; give it once")
        for override in mine:
            offered = choices(group)
            for value in values_of(override):
                if value not in offered:
                    other = "; env.id=<id> for any other" if group == "env" else ""
                    raise UserError(f"{group}={value}: unknown{did_you_mean(value, offered)}{other}")
            if override.get_key_element() != f"{plus}{group}":
                raise UserError(f"{override.input_line}: write {plus}{group}={values_of(override)[0]}")


def check_keys(overrides: list[Override], config_of: Callable[[tuple[str, ...]], dict[str, Any]]) -> None:
    """Every key on the command line must exist for every choice of algorithm and compression in it.

    `config_of`: as `unresolved_config`.
    """
    given = {override.key_or_group: override for override in overrides}
    for key in ("env.name", "env.version"):
        if key in given and "env.id" in given:
            raise UserError(f"{given[key].input_line}: {given['env.id'].input_line} says it already; leave one out")
    groups = [o for o in overrides if is_group(o)]
    tasks = BasicSweeper.split_arguments(groups, max_batch_size=None)[0]
    for task in tasks:
        config = config_of(tuple(task))
        for override in overrides:
            key = override.key_or_group
            if is_group(override) or is_hydra(override) or override.is_delete() or ENV_KWARGS.match(key):
                continue
            *parents, leaf = key.split(".")
            node: Any = config
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if not isinstance(node, dict) or leaf not in node:
                siblings = list(node) if isinstance(node, dict) else []
                within = f" for {' '.join(task)}" if "." in key else ""
                raise UserError(f"{override.input_line}: no such key{within}{did_you_mean(leaf, siblings)}")
