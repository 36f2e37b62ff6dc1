"""What a run is called where people read: its compression, and the settings that differ from the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any

SHORT = {"total_steps": "steps"}
# What is said already by the name of the compression or of the environment, and what changes no policy.
SAID = ("compress.method", "compress.ratio", "seed", "study", "protocol", "env.", "wandb.", "overwrite")
CHANGES_NO_POLICY = ("checkpoint_every", "compile", "device", "env_workers", "eval.", "fail_fast", "threads")


def worded(label: str, differences: Mapping[str, Any]) -> str:
    """A label without its hash, and what differs: `fp32 actor_lr=0.001 steps=50k`."""
    name, _, changed = label.partition("~")
    if not changed:
        return name
    told = {key: value for key, value in differences.items() if not key.startswith((*SAID, *CHANGES_NO_POLICY))}
    words = [f"{SHORT.get(key, key.rpartition('.')[2])}={short(value)}" for key, value in told.items()]
    return " ".join([name, *words]) if words else label


def without_shared(names: Sequence[str]) -> list[str]:
    """The names of a table without the `key=value` that stand in all of them."""
    shared = set.intersection(*[set(_settings(name)) for name in names])
    return [_without(name, shared) for name in names]


def _settings(name: str) -> list[str]:
    return [word for word in name.split() if "=" in word]


def _without(name: str, words: set[str]) -> str:
    return " ".join(word for word in name.split() if word not in words)


def short(value: Any) -> str:
    """A value in few characters and without a space, as words are told apart by it: 50k, 1M, 0.001, true, [16,16]."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        for size, letter in ((1_000_000, "M"), (1000, "k")):
            if value >= size and value % (size // 10) == 0:
                return f"{value / size:g}{letter}"
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).replace(" ", "")
