"""Runs that are on disk."""

from pathlib import Path
from typing import Any

import safetensors.torch
import yaml

from compression.artifact import CONTRACT_FILE, hashes_match
from rlc.config.compose import default_settings
from rlc.config.job import Job
from rlc.config.settings import Settings, parse_settings
from rlc.messages import warn
from rlc.runs.identity import training_identity, with_names_of_now
from rlc.runs.run import (
    AGENT_FILE,
    ARTIFACT,
    NOT_PACKED,
    OUTPUTS,
    PACKED_PART,
    StoredRun,
    algorithm_directory,
    read_json,
)
from trainers.errors import UserError


def load_run(path: Path) -> StoredRun:
    """The run in a directory. Raises UserError where there is none that can be read."""
    try:
        config = read_config(path)
        settings = stored_settings(config)
        return StoredRun(path, settings, settings.seed[0], path.parent.name, config["identity"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{path} holds no run that can be read: {error}") from error


def read_config(path: Path) -> Any:
    """config.yaml of a run directory, as it stands there."""
    # The parser in C where there is one: a study has thousands of these.
    return yaml.load((path / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def stored_settings(config: Any) -> Settings:
    """The settings in config.yaml. A setting that is younger than the run has its default."""
    return parse_settings(default_settings() | with_names_of_now(config["settings"]))


def artifact_of(folder: Path) -> Path:
    """The artifact that a folder is, or that it has as a run. Raises UserError for a run that has only a record."""
    if (read_json(folder / "status.json") or {}).get("artifact") == NOT_PACKED:
        raise UserError(
            f"{folder}: came from a pack without its policy: the command that made it, with overwrite=true, "
            "makes it again"
        )
    return folder if (folder / CONTRACT_FILE).exists() else folder / ARTIFACT


def without_critics(path: Path) -> bool:
    """Whether the agent in a run directory came from a pack: nothing can be trained further from it."""
    try:
        with safetensors.safe_open(path / AGENT_FILE, "pt") as file:
            return dict(file.metadata() or {}) == PACKED_PART
    except (OSError, safetensors.SafetensorError):
        return False


def finished_runs(study: str) -> list[StoredRun]:
    """All finished runs of a study, by environment, algorithm, label and seed; says which it cannot read."""
    found = []
    for run in list_runs(study):
        if run.finished():
            found.append(run)
        elif (run.status() or {}).get("state") == "done":
            warn(f"left out: {run.path}: a file of it is missing or damaged")
    return found


def list_runs(study: str) -> list[StoredRun]:
    """All runs of a study that were begun."""
    found = []
    for file in sorted(OUTPUTS.glob(f"{study}/*/*/*/seed*/config.yaml")):
        if ".old-" in file.parent.name:
            continue
        try:
            found.append(load_run(file.parent))
        except UserError as error:
            warn(f"left out: {error}")
    return found


def find_baseline(job: Job, seed: int) -> Path | None:
    """Directory of a finished fp32 run of this seed with the same training settings, however it was evaluated."""
    return _find_baseline(algorithm_directory(job.settings), job.settings, seed)


def find_stored_baseline(path: Path) -> Path | None:
    """Directory of the finished fp32 run that the run in a directory is to be compared with."""
    if not (path / "config.yaml").exists():  # an artifact alone
        return None
    run = load_run(path)
    return _find_baseline(path.parent.parent, run.settings, run.seed)


def comparison_key(run: StoredRun) -> tuple[str, str, int, str]:
    """What policies that are compared have in common: environment, algorithm, seed and fp32 training."""
    return run.settings.env.id, run.settings.algo.name, run.seed, training_identity(run.settings.with_fp32())


def _find_baseline(folder: Path, settings: Settings, seed: int) -> Path | None:
    training = training_identity(settings.with_fp32())
    for path in sorted(folder.glob(f"fp32*/seed{seed}")):
        if path.parent.name.partition("~")[0] != "fp32":
            continue  # by another protocol
        result = read_json(path / "result.json") or {}
        status = read_json(path / "status.json") or {}
        same = result.get("training_identity") == training and status.get("state") == "done"
        if same and hashes_match(path / ARTIFACT):
            return path
    return None
