"""Check the artifact of a run and copy it, or write it as C: python -m rlc.export run=outputs/.../seed0 to=<folder>"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from compression.native.folder import Score, export_native
from compression.native.generate import LAYOUTS, WEIGHTS, Options
from rlc.cli import defaults_of, given_path, only, positional, run_command
from rlc.datafiles import CONF
from rlc.packing.zoo import card_of, given_policy
from rlc.runs.files import RESULT_FILE, read_record
from rlc.runs.find import open_artifact
from rlc.runs.records import RunResult
from trainers.errors import UserError

KEYS = ("run", "policy", "target", "to", "layout", "skip_zeros", "weights")
DEFAULTS = defaults_of(CONF / "export.yaml")
TARGETS = ("onnx", "c")
BOOLEANS = {"true": True, "false": False}
Name = TypeVar("Name", bound=str)


def export(arguments: list[str]) -> None:
    """Without `to` the artifact is only checked. Raises ArtifactError where it is damaged."""
    values = only(positional(arguments, "run"), KEYS, required=())
    given = _given(values)
    target = _one_of(values, "target", TARGETS)
    options = _options(values, target)
    source = given_policy(given)
    folder, contract, _ = open_artifact(source)
    description = f"{contract['algorithm']} for {contract['environment']['id']}, {contract['compression']['method']}"
    if target == "c":
        written = export_native(folder, given_path(values["to"]), options, _score(given, source))
        print(f"{values['to']}: {description}: {written.test}")
    elif "to" in values:
        _copy(folder, given_path(values["to"]))
        print(f"{values['to']}: {description}")
    else:
        print(f"{folder}: {description}: whole, and gives its golden actions")


def _given(values: dict[str, str]) -> str:
    given = [key for key in ("run", "policy") if values.get(key)]
    if len(given) != 1:
        raise UserError("run: give one of run=<directory of a run> and policy=<folder of an artifact, or zoo:<name>>")
    return values[given[0]]


def _options(values: dict[str, str], target: str) -> Options:
    """How the C code is written. Raises UserError for values that are not allowed or make no sense here."""
    if target == "c" and not values.get("to"):
        raise UserError("to: none given; target=c needs to=<folder>")
    for key in ("layout", "skip_zeros", "weights"):
        if key in values and target != "c":
            raise UserError(f"{key}={values[key]}: only with target=c")
    layout = _one_of(values, "layout", LAYOUTS)
    skip_zeros = BOOLEANS[_one_of(values, "skip_zeros", tuple(BOOLEANS))]
    return Options(layout, skip_zeros, _one_of(values, "weights", WEIGHTS))


def _one_of(values: dict[str, str], key: str, allowed: Sequence[Name]) -> Name:
    """The value of a key, or its default. Raises UserError where it is not allowed."""
    given = values.get(key, DEFAULTS[key])
    for name in allowed:
        if name == given:
            return name
    raise UserError(f"{key}={given}: unknown; allowed: {', '.join(allowed)}")


def _score(given: str, source: Path) -> Score | None:
    """The return in a run's record, or on a card of the zoo, where there is one."""
    card = card_of(given)
    if card is not None:
        return Score(card.return_mean, card.return_std, card.episodes)
    result = read_record(RunResult, source / RESULT_FILE)
    if result is None:
        return None
    return Score(result.return_mean, result.return_std, len(result.episode_returns))


def _copy(folder: Path, target: Path) -> None:
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another to=<folder>")
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(folder, temporary)
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"to={target}: cannot be written: {error.strerror}; choose another to=<folder>") from error


if __name__ == "__main__":
    run_command(export)
