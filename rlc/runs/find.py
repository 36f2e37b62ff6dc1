"""Queries over what is on disk: the runs of a study, and the artifact that a folder is or has."""

from pathlib import Path
from typing import Any, NamedTuple

from compression.artifact import check_artifact, load_policy
from compression.files import CONTRACT_FILE
from rlc.messages import warn
from rlc.runs.files import ARTIFACT, OUTPUTS, STATUS_FILE, read_json
from rlc.runs.identity import training_identity
from rlc.runs.records import NOT_PACKED
from rlc.runs.stored import StoredRun, load_run
from trainers.errors import UserError
from trainers.policy import Policy


class Artifact(NamedTuple):
    """An artifact that was read and gives its golden actions."""

    folder: Path
    contract: dict[str, Any]
    """policy.json"""
    policy: Policy


def open_artifact(folder: Path) -> Artifact:
    """The artifact that a folder is, or that it has as a run.

    Raises:
        UserError: a run that came from a pack without its policy.
        ArtifactError: there is none, or it is damaged.
    """
    if (read_json(folder / STATUS_FILE) or {}).get("artifact") == NOT_PACKED:
        raise UserError(
            f"{folder}: came from a pack without its policy: the command that made it, with overwrite=true, "
            "makes it again"
        )
    if not (folder / CONTRACT_FILE).exists():
        folder = folder / ARTIFACT
    return Artifact(folder, check_artifact(folder), load_policy(folder))


def finished_runs(study: str) -> list[StoredRun]:
    """All finished runs of a study, by environment, algorithm, label and seed; says which it cannot read."""
    finished = []
    for run in list_runs(study):
        status = run.status()
        if run.finished():
            finished.append(run)
        elif status is not None and status.state == "done":
            warn(f"left out: {run.path}: a file of it is missing or damaged")
    return finished


def list_runs(study: str) -> list[StoredRun]:
    """All runs of a study that were begun; says which it cannot read."""
    runs = []
    for file in sorted(OUTPUTS.glob(f"{study}/*/*/*/seed*/config.yaml")):
        if ".old-" in file.parent.name:
            continue
        try:
            runs.append(load_run(file.parent))
        except UserError as error:
            warn(f"left out: {error}")
    return runs


def comparison_key(run: StoredRun) -> tuple[str, str, int, str]:
    """What policies that are compared have in common: environment, algorithm, seed and fp32 training."""
    return run.settings.env.id, run.settings.algo.name, run.seed, training_identity(run.settings.with_fp32())
