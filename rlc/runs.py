"""Runs on disk: identity, directories, status, results."""

import csv
import hashlib
import itertools
import json
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from filelock import FileLock, Timeout
from torch import Tensor

from compression.artifact import CONTRACT_FILE, intact
from compression.files import write_atomic
from rlc.checkpoint import Checkpoints
from rlc.messages import say
from rlc.plan import Job, default_settings
from rlc.settings import PruneSettings, Settings, parse_settings
from trainers.errors import UserError, one_line

OUTPUTS = Path("outputs")
ARTIFACT = "artifact"
MEASUREMENT_FILE = "measurement.json"
AGENT_FILE = "agent.safetensors"
# What status.json says of the artifact of a run that came from a pack as a record alone.
NOT_PACKED = "not packed"
# What the metadata of agent.safetensors say of its part that came from a pack: without critics and targets.
PACKED_PART = {"part": "policy"}
# Fingerprints in result.json: two seeds that share one are not independent.
FIRST_OBSERVATIONS = "first_observations_sha256"
INITIAL_WEIGHTS = "initial_weights_sha256"
FINAL_WEIGHTS = "final_weights_sha256"
# Settings that do not change a result: where it goes, what watches it, what it runs on. The seed has its own
# directory, and of the environment only the id counts.
NOT_IDENTITY = {
    "study",
    "seed",
    "device",
    "threads",
    "compile",
    "env_workers",
    "checkpoint_every",
    "overwrite",
    "fail_fast",
    "wandb",
    "env",
}
# Settings that do not change what is trained.
NOT_TRAINING = frozenset({"eval"})
LABEL_HASH_LENGTH = 6
HEARTBEAT_SECONDS = 10


def identity(settings: Settings, exclude: frozenset[str] = frozenset()) -> str:
    """Hash of the resolved settings that affect the result of a seed."""
    data = settings.model_dump(exclude=NOT_IDENTITY | exclude) | {"env_id": settings.env.id}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def training_identity(settings: Settings) -> str:
    """Hash of the settings that affect the fp32 or QAT training a run needs."""
    trained = settings if settings.trains else settings.with_fp32()
    return identity(trained, NOT_TRAINING)


def label(job: Job) -> str:
    """The names of compression and protocol, with a short hash where any other setting differs from the defaults."""
    compress, name = job.settings.compress, job.settings.label
    changes: dict[str, Any] = {"env": job.settings.env, "protocol": job.settings.protocol}
    if isinstance(compress, PruneSettings):  # its ratio stands in the name
        changes["compress"] = job.defaults.compress.model_copy(update={"ratio": compress.ratio})
    own = identity(job.asked)
    same = own == identity(job.defaults.model_copy(update=changes))
    return name if same else f"{name}~{own[:LABEL_HASH_LENGTH]}"


def algorithm_directory(settings: Settings) -> Path:
    return OUTPUTS / settings.study / settings.env.id.replace("/", "_") / settings.algo.name


class RunDirectory:
    """What the directory of a run holds, and who it is."""

    def __init__(self, path: Path, settings: Settings, seed: int, label: str, identity: str) -> None:
        self.path, self.settings, self.seed, self.label, self.identity = path, settings, seed, label, identity
        self.artifact = path / ARTIFACT

    @property
    def name(self) -> str:
        return f"{self.settings.algo.name} {self.settings.env.id} {self.label} seed {self.seed}"

    def finished(self) -> bool:
        """Whether status, result and artifact of a run of these settings are all there and whole.

        A run that came from a pack without its policy is finished without an artifact.
        """
        status = self.status() or {}
        done = status.get("state") == "done" and status.get("identity") == self.identity
        return done and "return_mean" in (self.result() or {}) and (self.record_only() or intact(self.artifact))

    def record_only(self) -> bool:
        """Whether the run came from a pack as a record, without its policy."""
        return (self.status() or {}).get("artifact") == NOT_PACKED

    def status(self) -> dict[str, Any] | None:
        return read_json(self.path / "status.json")

    def result(self) -> dict[str, Any] | None:
        return read_json(self.path / "result.json")

    def measurement(self) -> dict[str, Any] | None:
        return read_json(self.path / MEASUREMENT_FILE)

    def figures(self) -> dict[str, Any]:
        """result.json and measurement.json as one: the source of every table."""
        return (self.result() or {}) | {"measurement": self.measurement()}

    def write_result(self, result: dict[str, Any]) -> None:
        write_atomic(self.path / "result.json", json.dumps(result, indent=1).encode())

    def write_measurement(self, measurement: dict[str, Any]) -> None:
        write_atomic(self.path / MEASUREMENT_FILE, json.dumps(measurement, indent=1).encode())

    def log(self, text: str) -> None:
        with (self.path / "run.log").open("a") as file:
            file.write(f"{_now()} {text}\n")


def stored_run(path: Path) -> RunDirectory:
    """The run in a directory. Raises UserError where there is none that can be read."""
    try:
        config = read_config(path)
        settings = stored_settings(config)
        return RunDirectory(path, settings, settings.seed[0], path.parent.name, config["identity"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{path} holds no run that can be read: {error}") from error


def read_config(path: Path) -> Any:
    """config.yaml of a run directory, as it stands there."""
    # The parser in C where there is one: a study has thousands of these.
    return yaml.load((path / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def stored_settings(config: Any) -> Settings:
    """The settings in config.yaml. A setting that is younger than the run has its default."""
    return parse_settings(default_settings() | config["settings"])


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


def stored_runs(study: str) -> list[RunDirectory]:
    """All finished runs of a study, by environment, algorithm, label and seed; says which it cannot read."""
    found = []
    for run in all_runs(study):
        if run.finished():
            found.append(run)
        elif (run.status() or {}).get("state") == "done":
            say(f"left out: {run.path}: a file of it is missing or damaged")
    return found


def all_runs(study: str) -> list[RunDirectory]:
    """All runs of a study that were begun."""
    found = []
    for file in sorted(OUTPUTS.glob(f"{study}/*/*/*/seed*/config.yaml")):
        if ".old-" in file.parent.name:
            continue
        try:
            found.append(stored_run(file.parent))
        except UserError as error:
            say(f"left out: {error}")
    return found


class Run(RunDirectory):
    """The directory of one seed of one job."""

    def __init__(self, job: Job, seed: int) -> None:
        own = label(job)
        path = algorithm_directory(job.settings) / own / f"seed{seed}"
        super().__init__(path, job.settings, seed, own, identity(job.asked))
        self.job = job
        self.training_identity = training_identity(job.asked)
        self._checkpoint_folder = self.path / "checkpoint"
        self._agent_file = self.path / AGENT_FILE
        self._status: dict[str, Any] = {}

    def check_identity(self) -> None:
        """Raises UserError where the directory holds a run of other settings."""
        status = self.status()
        if status is not None and status.get("identity") != self.identity:
            raise UserError(f"{self.path} holds a run of other settings: choose another study=<name>")

    def error(self) -> str:
        """Why the run is not finished."""
        status = self.status() or {}
        return status.get("error") or f"its state is {status.get('state', 'not begun')}"

    def begin(self) -> None:
        """Take the directory for this run. An unfinished attempt is kept as far as a training can go on from it.

        Raises UserError where the directory holds a run of other settings.
        """
        self.check_identity()
        if not self.trained() and not self._checkpoint_folder.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self._status = {
            "state": "running",
            "error": None,
            "identity": self.identity,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _now(),
            "heartbeat": _now(),
            "step": 0,
            "total_steps": self.settings.training_steps,
        }
        self._beat = time.monotonic()
        self._write_status()
        config = {
            "settings": self.settings.model_copy(update={"seed": [self.seed]}).model_dump(),
            "differs_from_defaults": dict(_differences(self.job.asked.model_dump(), self.job.defaults.model_dump())),
            "auto": list(self.job.auto),
            "overrides": list(self.job.overrides),
            "identity": self.identity,
        }
        write_atomic(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())

    def heartbeat(self, step: int) -> None:
        """Note that the run is alive; writes at most every HEARTBEAT_SECONDS."""
        if time.monotonic() - self._beat >= HEARTBEAT_SECONDS:
            self._beat = time.monotonic()
            self._status |= {"heartbeat": _now(), "step": step}
            self._write_status()

    def finish(self, result: dict[str, Any]) -> None:
        self.write_result(result)
        self.checkpoints().delete()
        self._status |= {"state": "done", "heartbeat": _now(), "step": self._status["total_steps"]}
        self._write_status()

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed; the traceback goes to run.log."""
        text = one_line(f"{type(error).__name__}: {error}")
        self._status |= {"state": "failed", "error": text, "heartbeat": _now()}
        self._write_status()
        self.log("".join(traceback.format_exception(error)))

    def note_death(self, pid: int, reason: str) -> None:
        """Mark the run as failed where its status says that a process runs it which does not any more."""
        status = self.status() or {}
        if status.get("state") == "running" and status.get("pid") == pid:
            self._status = status | {"state": "failed", "error": reason}
            self._write_status()
            self.log(reason)

    def state(self) -> str | None:
        """running, failed or done, as this process knows it."""
        return self._status.get("state")

    def trained(self) -> bool:
        """Whether a whole agent of these training settings is there, be it recorded or not."""
        try:
            return self._agent_metadata()["training_identity"] == self.training_identity
        except (OSError, KeyError, safetensors.SafetensorError):
            return False

    def save_agent(self, tensors: dict[str, Tensor], figures: dict[str, Any]) -> None:
        """agent.safetensors: everything trained, by name, and what result.json will say of the training."""
        metadata = {"figures": json.dumps(figures), "training_identity": self.training_identity}
        content = safetensors.torch.save(tensors, metadata=metadata)
        write_atomic(self._agent_file, content)
        self.checkpoints().delete()

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self._checkpoint_folder)

    def load_agent(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `save_agent` wrote."""
        return safetensors.torch.load_file(self._agent_file), json.loads(self._agent_metadata()["figures"])

    def _agent_metadata(self) -> dict[str, str]:
        with safetensors.safe_open(self._agent_file, "pt") as file:
            return dict(file.metadata() or {})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this directory against other processes; says so when it has to wait for one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.parent / f".{self.path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{self.path} is in use by another process: waiting", flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def move_aside(self) -> None:
        """Keep what is here under another name, so that the run can be done again."""
        if self.path.exists():
            aside = (self.path.with_name(f"{self.path.name}.old-{n}") for n in itertools.count(1))
            self.path.replace(next(path for path in aside if not path.exists()))

    def _write_status(self) -> None:
        write_atomic(self.path / "status.json", json.dumps(self._status, indent=1).encode())


class MetricsFile:
    """metrics.csv: one row per report; a column that a row lacks stays empty."""

    def __init__(self, path: Path, columns: list[str], step: int) -> None:
        """Keeps the rows up to `step` of an earlier attempt."""
        earlier = path.read_text().splitlines() if step else []
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()
        self._writer.writerows(row for row in csv.DictReader(earlier) if int(row["global_step"]) <= step)

    def write(self, row: dict[str, float]) -> None:
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def finished_fp32_run(job: Job, seed: int) -> Path | None:
    """Directory of a finished fp32 run of this seed with the same training settings, however it was evaluated."""
    return _finished_fp32(algorithm_directory(job.settings), job.settings, seed)


def fp32_beside(path: Path) -> Path | None:
    """Directory of the finished fp32 run that the run in a directory is to be compared with."""
    if not (path / "config.yaml").exists():  # an artifact alone
        return None
    run = stored_run(path)
    return _finished_fp32(path.parent.parent, run.settings, run.seed)


def task_of(run: RunDirectory) -> tuple[str, str, int, str]:
    """What policies that are compared have in common: environment, algorithm, seed and fp32 training."""
    return run.settings.env.id, run.settings.algo.name, run.seed, training_identity(run.settings.with_fp32())


def _finished_fp32(folder: Path, settings: Settings, seed: int) -> Path | None:
    training = training_identity(settings.with_fp32())
    for path in sorted(folder.glob(f"fp32*/seed{seed}")):
        if path.parent.name.partition("~")[0] != "fp32":
            continue  # by another protocol
        result, status = read_json(path / "result.json") or {}, read_json(path / "status.json") or {}
        same = result.get("training_identity") == training and status.get("state") == "done"
        if same and intact(path / ARTIFACT):
            return path
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _differences(own: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in own.items():
        other = default.get(key) if isinstance(default, dict) else None
        if isinstance(value, dict):
            yield from _differences(value, other, f"{prefix}{key}.")
        elif value != other:
            yield f"{prefix}{key}", value


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
