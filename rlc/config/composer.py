"""The configurations of a large grid, put together from few that Hydra composes.

A composition takes Hydra about 70 ms. A grid of thousands of jobs has few files in it: each is composed once, beside
the first choice of every other group, and its section is taken from there. Where that is not the whole of what a file
does, Hydra composes each job.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from rlc.config.compose import compose_settings, is_group, parse_overrides, resolved, unresolved_config

Plain = dict[str, Any]
# Groups whose files fill the section of their name; `experiment` may change anything.
SECTIONS = ("algo", "compress", "env")
SCALARS = (bool, int, float, str, type(None))


class Composer:
    """Composes the jobs of one grid."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, ...], dict[str, str]] = {}
        self._resolved: dict[tuple[str, ...], Plain] = {}
        self._settings: dict[tuple[str, ...], Plain] = {}

    def settings(self, lines: tuple[str, ...]) -> Plain:
        """What `compose_settings` gives for the overrides of one job."""
        if lines not in self._settings:
            self._settings[lines] = self._compose(lines)
        return self._settings[lines]

    def _compose(self, lines: tuple[str, ...]) -> Plain:
        overrides = parse_overrides(lines)
        raw = self._put_together([override for override in overrides if is_group(override)])
        changes = [override for override in overrides if not is_group(override)]
        if raw is None or not all(_is_plain(override, raw) for override in changes):
            return compose_settings(lines)
        apart = _is_apart(raw, "compress")
        of_compress = [change for change in changes if apart and change.key_or_group.startswith("compress.")]
        if not all(isinstance(change.value(), SCALARS) and "${" not in str(change.value()) for change in of_compress):
            return compose_settings(lines)
        if not apart:
            return _resolve(raw, changes)
        key = tuple(str(o.input_line) for o in overrides if not o.key_or_group.startswith("compress"))
        if key not in self._resolved:
            rest = {name: value for name, value in raw.items() if name != "compress"}
            self._resolved[key] = _resolve(rest, [change for change in changes if change not in of_compress])
        return self._resolved[key] | {"compress": _changed(raw["compress"], of_compress)}

    def config(self, lines: tuple[str, ...]) -> Plain:
        """What `unresolved_config` gives for choices of files."""
        raw = self._put_together(parse_overrides(lines))
        return unresolved_config(lines) if raw is None else raw

    def _put_together(self, choices: Sequence[Override]) -> Plain | None:
        """The composed configuration of choices of files, interpolations as they stand, without Hydra's part.

        None where the choices do not fill their own sections alone.
        """
        chosen = {override.key_or_group: str(override.input_line) for override in choices}
        kind = (chosen.get("experiment", ""), *(name for name in SECTIONS if name in chosen))
        first = self._first.setdefault(kind, chosen)
        base = unresolved_config(tuple(first.values()))
        whole = dict(base)
        for section in SECTIONS:
            if chosen.get(section) == first.get(section):
                continue
            other = unresolved_config(tuple((first | {section: chosen[section]}).values()))
            if _without(other, section) != _without(base, section):
                return None
            whole[section] = other[section]
        return whole


def _without(data: Plain, section: str) -> Plain:
    return {key: value for key, value in data.items() if key != section}


def _is_plain(override: Override, raw: Plain) -> bool:
    """Whether an override gives a key that is there one value."""
    node: Any = raw
    for part in override.key_or_group.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return override.type == OverrideType.CHANGE and override.package is None and not isinstance(node, dict)


def _is_apart(raw: Plain, section: str) -> bool:
    """Whether nothing in a section refers to another part of the configuration, and nothing to the section."""
    own = raw.get(section)
    if not isinstance(own, dict) or any(_interpolations(own)):
        return False
    return not any(section in text for text in _interpolations(raw))


def _interpolations(node: Any) -> Iterator[str]:
    """All texts in nested mappings and lists that refer to something."""
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _interpolations(value)
    elif isinstance(node, str) and "${" in node:
        yield node


def _resolve(raw: Plain, changes: Sequence[Override]) -> Plain:
    config = OmegaConf.create(raw)
    assert isinstance(config, DictConfig)
    for change in changes:
        OmegaConf.update(config, change.key_or_group, change.value(), merge=True)
    return resolved(config)


def _changed(section: Plain, changes: Sequence[Override]) -> Plain:
    """A copy of a section in which keys, one or several levels deep, have other values."""
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in section.items()}
    for change in changes:
        node = copy
        *parents, leaf = change.key_or_group.split(".")[1:]
        for parent in parents:
            node = node[parent]
        node[leaf] = change.value()
    return copy
