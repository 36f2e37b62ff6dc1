"""Random valid settings survive YAML, and keep their identity."""

import types
import typing
from pathlib import Path
from typing import Any, Literal

import annotated_types
import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlc.config.plan import make_plan
from rlc.config.settings import Settings, parse_settings
from rlc.runs.identity import identity, training_identity
from rlc.runs.stored import stored_settings
from rlc.sources import choices
from tests.helpers import ALGORITHMS
from trainers.errors import UserError

# What other settings must agree with, or what names something that must exist.
LEFT_ALONE = {"name", "method", "num_envs", "env", "protocol", "device", "seed", "study", "precision", "overlap"}


def random_value(annotation: Any, metadata: list[Any], generator: np.random.Generator) -> Any:
    """A value that the type of a setting allows."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return random_value(arguments[0], list(arguments[1:]), generator)
    if origin in (typing.Union, types.UnionType):
        return random_value(arguments[generator.integers(len(arguments))], metadata, generator)
    if origin is Literal:
        return arguments[generator.integers(len(arguments))]
    if origin is list:
        return [random_value(arguments[0], [], generator) for _ in range(generator.integers(1, 4))]
    if annotation is types.NoneType:
        return None
    if annotation is bool:
        return bool(generator.integers(2))
    low, high = bounds(metadata)
    if annotation is int:
        return int(generator.integers(int(low), int(min(high, 10**6))))
    return min(max(float(10 ** generator.uniform(-8, 8)), low + 1e-9), high)


def bounds(metadata: list[Any]) -> tuple[float, float]:
    """The smallest and the largest number that the metadata of a setting allow."""
    low = 0.0
    high = np.inf
    limits: list[Any] = []
    for part in metadata:
        limits += part.metadata if isinstance(part, FieldInfo) else [part]
    for limit in limits:
        match limit:
            case annotated_types.Ge(ge=value) | annotated_types.Gt(gt=value):
                low = float(value)  # type: ignore[arg-type]
            case annotated_types.Le(le=value):
                high = float(value)  # type: ignore[arg-type]
            case annotated_types.Lt(lt=value):
                high = float(value) - 1e-9  # type: ignore[arg-type]
    return low, high


def changed(settings: BaseModel, generator: np.random.Generator) -> dict[str, Any]:
    """The settings as a dictionary, with about a third of them drawn anew."""
    data: dict[str, Any] = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            data[key] = changed(value, generator) if key not in LEFT_ALONE else value.model_dump()
        elif key in LEFT_ALONE or field.annotation is str or generator.random() < 0.7:
            data[key] = value
        else:
            data[key] = random_value(field.annotation, field.metadata, generator)
    return data


def random_settings(base: Settings, generator: np.random.Generator) -> Settings:
    """Settings near others; draws again where they do not agree with one another."""
    for _ in range(1000):
        try:
            return parse_settings(changed(base, generator))
        except UserError:
            continue
    raise AssertionError("no settings were allowed")


@pytest.mark.parametrize("method", choices("compress"))
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_settings_survive_yaml_and_keep_their_identity(algo: str, method: str, tmp_path: Path) -> None:
    generator = np.random.default_rng([4, *algo.encode(), *method.encode()])
    base = make_plan([f"+algo={algo}", f"+compress={method}"]).jobs[0].settings
    drawn: list[Settings] = []
    for _ in range(4):
        settings = random_settings(base, generator)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"settings": settings.model_dump()}, sort_keys=False))
        read = stored_settings(yaml.safe_load(path.read_text()))
        assert read == settings
        assert type(read.algo) is type(settings.algo)
        assert identity(read) == identity(settings)
        assert training_identity(read) == training_identity(settings)
        drawn.append(settings)
    assert any(settings.algo != base.algo for settings in drawn)
    assert len({identity(settings) for settings in drawn}) > 1
