"""One run on disk: its directory, status, result and agent."""

import csv
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

from compression.artifact import hashes_match
from compression.files import write_atomic
from rlc.config.job import Job
from rlc.config.settings import Settings
from rlc.runs.checkpoint import Checkpoints
from rlc.runs.identity import folder_name, identity, label, training_identity
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
HEARTBEAT_SECONDS = 10


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

    @property
    def name(self) -> str:
        return f"{self.settings.algo.name} {self.settings.env.id} {self.label} seed {self.seed}"

    def finished(self) -> bool:
        """Whether status, result and artifact of a run of these settings are all there and whole.

        A run that came from a pack without its policy is finished without an artifact.
        """
        status = self.status() or {}
        done = status.get("state") == "done" and status.get("identity") == self.identity
        return done and "return_mean" in (self.result() or {}) and (self.record_only() or hashes_match(self.artifact))

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


class Run(StoredRun):
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

    def interrupt(self) -> None:
        """Mark the run as stopped from outside: the same command goes on with it."""
        self._status |= {"state": "interrupted", "error": None, "heartbeat": _now()}
        self._write_status()
        self.log("interrupted")

    def mark_killed(self, pid: int, reason: str) -> None:
        """Mark the run as failed where its status says that a process runs it which does not any more."""
        status = self.status() or {}
        if status.get("state") == "running" and status.get("pid") == pid:
            self._status = status | {"state": "failed", "error": reason}
            self._write_status()
            self.log(reason)

    def state(self) -> str | None:
        """running, failed, interrupted or done, as this process knows it."""
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
    def lock(self) -> Iterator[None]:
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

    def archive(self) -> None:
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
