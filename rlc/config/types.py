"""Types of settings beside those of the trainers, and one-line messages for what does not fit them."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from trainers.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Model = TypeVar("Model", bound=BaseModel)


# `auto` is what this machine needs or can do: `rlc.config.decide` replaces it before a job runs.
BoolOrAuto = bool | Literal["auto"]


def decided(value: BoolOrAuto) -> bool:
    """The value of a setting that a job runs with."""
    if value == "auto":
        raise ValueError("a setting is still auto: rlc.decide must see it first")
    return value


def parse_model(model: type[Model], data: dict[str, Any]) -> Model:
    """Data as checked settings. Raises UserError in one line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(_lines(error, data))) from None


def _lines(error: ValidationError, data: dict[str, Any]) -> Iterable[str]:
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        if item["type"] == "value_error":
            problems.setdefault(str(item["ctx"]["error"]), [])
            continue
        # Of the location only what is a key of the configuration: pydantic adds names of union branches.
        node: Any = data
        keys: list[str] = []
        for part in item["loc"]:
            if isinstance(node, dict) and part in node:
                node = node[str(part)]
                keys.append(str(part))
        path = ".".join(keys)
        if item["type"] == "missing":
            missing = ".".join([*keys, str(item["loc"][-1])])
            problems.setdefault(f"{missing}: is missing", [])
        elif item["type"] == "extra_forbidden":
            problems.setdefault(f"{path}={node}: there is no such key", [])
        else:
            problems.setdefault(f"{path}={_given(node)}", []).append(_message(item["msg"]))
    for subject, messages in problems.items():
        yield f"{subject}: {' or '.join(messages)}" if messages else subject


def _given(value: Any) -> str:
    return "null" if value is None else str(value)


def _message(text: str) -> str:
    if text.startswith("String should match pattern '^(cpu"):
        return "must be cpu, cuda or cuda:<number>"
    return re.sub(r"^(Input|String|List) should", "must", text).removesuffix(" after validation, not 0")
