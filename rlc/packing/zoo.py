"""The zoo: trained fp32 policies that come with rlc, one per algorithm and environment, as policy=zoo:<name>.

`rlc/data/zoo/<name>/` has the tensors of a policy, its contract with short numbers, and its card. The artifact is made
of them where it is first used; `rlc.zoo` lists the policies and adds to them.
"""

import json
from pathlib import Path
from typing import Any

from compression.artifact import read_policy, remade_files, write_files
from compression.files import CONTRACT_FILE, TENSOR_FILE, hashes_match
from rlc.cli import given_path
from rlc.datafiles import DATA
from rlc.messages import did_you_mean
from rlc.packing.packs import restored
from rlc.runs.files import OUTPUTS
from rlc.runs.records import Record
from trainers.errors import UserError

PREFIX = "zoo:"
ZOO = DATA / "zoo"
CARD_FILE = "card.json"
FILM_FILE = "film.webp"
"""Beside the card, where it could be rendered."""


class Card(Record):
    """What is known of a policy of the zoo. Returns are undiscounted, of deterministic actions."""

    env_id: str
    algo: str
    seed: int
    total_steps: int
    """Environment steps of its training."""
    return_mean: float
    return_std: float
    """Over the episodes, divided by n."""
    episodes: int
    eval_seed: int
    """Of the start states, which are not those by which the policy was chosen."""
    cpu: str | None
    """Processor that played the episodes."""
    recorded_return_mean: float
    """That of the run's own record, by which the policy was chosen."""
    candidates: int
    """Runs among which it was chosen."""
    random_return_mean: float
    zero_return_mean: float
    source: str
    """Pack or folder that it came from."""
    git_commit: str | None
    """Code that made the run's record; None where it is not known."""
    train_seconds: float | None
    settings: dict[str, Any]
    curve: list[tuple[int, float]]
    """Environment step and mean return of the evaluations along the training; empty where there are none."""


def zoo_names() -> list[str]:
    """Names of the policies, sorted."""
    return sorted(file.parent.name for file in ZOO.glob(f"*/{CARD_FILE}"))


def read_card(name: str) -> Card:
    """The card of a policy. Raises UserError for a name that the zoo does not have."""
    names = zoo_names()
    if name not in names:
        raise UserError(f"{PREFIX}{name}: no such policy{did_you_mean(name, names)}")
    return Card.model_validate_json((ZOO / name / CARD_FILE).read_text())


def card_of(text: str) -> Card | None:
    """The card of what a command line names; None where that is not of the zoo."""
    return read_card(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None


def given_policy(text: str) -> Path:
    """The path that a command line names. `zoo:<name>` is the artifact of that policy, made in outputs/zoo/.

    Raises UserError for a name that the zoo does not have.
    """
    if not text.startswith(PREFIX):
        return given_path(text)
    name = text.removeprefix(PREFIX)
    read_card(name)
    folder = OUTPUTS / "zoo" / name
    content = (ZOO / name / TENSOR_FILE).read_bytes()
    if not (hashes_match(folder) and (folder / TENSOR_FILE).read_bytes() == content):
        contract = restored(json.loads((ZOO / name / CONTRACT_FILE).read_text()))
        write_files(folder, remade_files(read_policy(contract, content), contract))
    return folder
