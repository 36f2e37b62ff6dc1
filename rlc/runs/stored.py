"""A run on disk, read: who it is, what its files say, and the fp32 run that it is compared with."""

import csv
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml

from compression.files import hashes_match
from rlc.config.compose import default_settings
from rlc.config.settings import Settings, parse_settings
from rlc.runs.files import (
    ARTIFACT,
    CONFIG_FILE,
    MEASUREMENT_FILE,
    OUTPUTS,
    RESULT_FILE,
    STATUS_FILE,
    is_finished,
    read_record,
    write_record,
)
from rlc.runs.identity import folder_name, training_identity, with_names_of_now
from rlc.runs.outline import Who
from rlc.runs.records import NOT_PACKED, Measurement, RunResult, RunStatus
from rlc.runs.wording import worded
from trainers.envs.make import env_factory
from trainers.envs.seed_envs import EnvFactory
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError

AGENT_FILE = "agent.safetensors"
METRICS_FILE = "metrics.csv"
# Its column of evaluations along the training.
EVALUATION = "eval/return_mean"
# What the metadata of agent.safetensors say of its part that came from a pack: without critics and targets.
PACKED_PART = {"part": "policy"}


def algorithm_directory(settings: Settings) -> Path:
    """Folder of all runs of one algorithm on one environment."""
    return OUTPUTS / settings.study / folder_name(settings.env.id) / settings.algo.name


class StoredRun:
    """What the directory of a run holds, and who it is."""

    def __init__(self, path: Path, settings: Settings, seed: int, label: str, identity: str) -> None:
        self.path = path
        self.settings = settings
        self.seed = seed
        self.label = label
        self.identity = identity
        self.artifact = path / ARTIFACT
        self.agent_file = path / AGENT_FILE
        self.differences: dict[str, Any] = {}
        """Settings that differ from the defaults, by dotted key."""
        self._baseline: StoredRun | None = None

    @property
    def name(self) -> str:
        return f"{self.settings.algo.name} {self.settings.env.id} {self.label} seed {self.seed}"

    @property
    def words(self) -> str:
        """The label as people read it: what differs in place of a hash."""
        return worded(self.label, self.differences)

    @property
    def who(self) -> Who:
        """Which run it is, in words and numbers."""
        names = (self.settings.algo.name, self.settings.env.id, self.label, self.words)
        return Who(*names, self.seed, self.identity)

    @property
    def spec(self) -> EnvSpec:
        """Shapes and bounds of the environment. Raises UserError where it cannot be made here."""
        return self.settings.env.spec()

    @property
    def make_env(self) -> EnvFactory:
        """Makes one environment of the run."""
        return env_factory(self.spec)

    @property
    def baseline(self) -> "StoredRun | None":
        """The finished fp32 run of the same seed and training settings, None while there is none.

        What is compressed here was trained there, and its return is what this one's is compared with.
        Raises UserError where it is there, but its settings cannot be read.
        """
        if self._baseline is None:
            self._baseline = find_baseline(self)
        return self._baseline

    def finished(self) -> bool:
        """Whether status, result and artifact of a run of these settings are all there and whole.

        A run that came from a pack without its policy is finished without an artifact.
        Raises UserError for records of a newer schema.
        """
        return is_finished(self.path, self.identity, self.status(), self.result())

    def record_only(self) -> bool:
        """Whether the run came from a pack as a record, without its policy."""
        status = self.status()
        return status is not None and status.artifact == NOT_PACKED

    def lacks_critics(self) -> bool:
        """Whether the run's agent came from a pack: nothing can be trained further from it."""
        try:
            with safetensors.safe_open(self.agent_file, "pt") as file:
                return dict(file.metadata() or {}) == PACKED_PART
        except (OSError, safetensors.SafetensorError):
            return False

    def status(self) -> RunStatus | None:
        return read_record(RunStatus, self.path / STATUS_FILE)

    def result(self) -> RunResult | None:
        return read_record(RunResult, self.path / RESULT_FILE)

    def fingerprints(self) -> dict[str, str]:
        """What no other seed may share, by name."""
        result = self.result()
        return {} if result is None else result.fingerprints

    def finished_result(self) -> RunResult:
        """The result of a finished run. Raises UserError where there is none that is whole."""
        result = self.result()
        if result is None:
            raise UserError(
                f"{self.path / RESULT_FILE}: missing or damaged; the same command makes it again with overwrite=true"
            )
        return result

    def measurement(self) -> Measurement | None:
        return read_record(Measurement, self.path / MEASUREMENT_FILE)

    def write_result(self, result: RunResult) -> None:
        write_record(self.path / RESULT_FILE, result)

    def write_measurement(self, measurement: Measurement) -> None:
        write_record(self.path / MEASUREMENT_FILE, measurement)

    def log(self, text: str) -> None:
        """Append to run.log."""
        with (self.path / "run.log").open("a") as file:
            file.write(f"{utc_now()} {text}\n")


def find_baseline(run: StoredRun) -> StoredRun | None:
    """The finished fp32 run of a run's seed and training settings, however it was evaluated. Use `run.baseline`."""
    training = training_identity(run.settings.with_fp32())
    for path in sorted(run.path.parent.parent.glob(f"fp32*/seed{run.seed}")):
        if path.parent.name.partition("~")[0] != "fp32":
            continue  # by another protocol
        result = read_record(RunResult, path / RESULT_FILE)
        status = read_record(RunStatus, path / STATUS_FILE)
        if result is None or status is None:
            continue
        same_training = result.training_identity == training and status.state == "done"
        if same_training and hashes_match(path / ARTIFACT):
            return load_run(path)
    return None


def load_run(path: Path) -> StoredRun:
    """The run in a directory. Raises UserError where there is none that can be read."""
    try:
        config = read_config(path)
        settings = stored_settings(config)
        run = StoredRun(path, settings, settings.seed[0], path.parent.name, config["identity"])
        run.differences = dict(config.get("differs_from_defaults") or {})
        return run
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{path} holds no run that can be read: {error}; allowed: outputs/.../seed<n>") from error


def read_config(path: Path) -> Any:
    """config.yaml of a run directory, as it stands there."""
    # The parser in C where there is one: a study has thousands of these.
    return yaml.load((path / CONFIG_FILE).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def stored_settings(config: Any) -> Settings:
    """The settings in config.yaml. A setting that is younger than the run has its default."""
    return parse_settings(default_settings() | with_names_of_now(config["settings"]))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv so far, without columns that are empty; none where there is no file."""
    try:
        return parse_metrics(path.read_text())
    except FileNotFoundError:
        return []


def parse_metrics(text: str) -> list[dict[str, float]]:
    """As `read_metrics`, of the content of the file."""
    return [_numbers(row) for row in csv.DictReader(text.splitlines())]


def _numbers(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value}


def evaluations(rows: Iterable[dict[str, float]]) -> list[tuple[int, float]]:
    """Environment step and mean return of the evaluations among the rows of a metrics.csv."""
    return [(int(row["global_step"]), row[EVALUATION]) for row in rows if EVALUATION in row]


def utc_now() -> str:
    """The time in UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
