"""One seed of one job: its directory, taken, written and finished."""

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

from compression.files import write_atomic
from rlc.config.job import Job
from rlc.runs.checkpoint import Checkpoints
from rlc.runs.files import CONFIG_FILE, STATUS_FILE, write_record
from rlc.runs.identity import identity, label, training_identity
from rlc.runs.records import RunResult, RunStatus, TrainingRecord
from rlc.runs.stored import StoredRun, algorithm_directory, utc_now
from trainers.errors import UserError, one_line

HEARTBEAT_SECONDS = 10


class Run(StoredRun):
    """The directory of one seed of one job."""

    def __init__(self, job: Job, seed: int) -> None:
        name = label(job)
        path = algorithm_directory(job.settings) / name / f"seed{seed}"
        super().__init__(path, job.settings, seed, name, identity(job.asked))
        self.differences = dict(_differences(job.asked.model_dump(), job.defaults.model_dump()))
        self.job = job
        self.training_identity = training_identity(job.asked)
        self._checkpoint_folder = self.path / "checkpoint"
        self._status: RunStatus | None = None

    def check_identity(self) -> None:
        """Raises UserError where the directory holds a run of other settings."""
        status = self.status()
        if status is not None and status.identity != self.identity:
            raise UserError(f"{self.path} holds a run of other settings: choose another study=<name>")

    def error(self) -> str:
        """Why the run is not finished."""
        status = self.status()
        if status is None:
            return "its state is not begun"
        return status.error or f"its state is {status.state}"

    def begin(self) -> None:
        """Take the directory for this run. An unfinished attempt is kept as far as a training can go on from it.

        Raises UserError where the directory holds a run of other settings.
        """
        self.check_identity()
        if not self.trained() and not self._checkpoint_folder.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self._last_heartbeat = time.monotonic()
        status = RunStatus(
            state="running",
            error=None,
            identity=self.identity,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=utc_now(),
            heartbeat=utc_now(),
            step=0,
            total_steps=self.settings.training_steps,
        )
        self._write_status(status)
        self._write_config()

    def _write_config(self) -> None:
        config = {
            "settings": self.settings.model_copy(update={"seed": [self.seed]}).model_dump(),
            "differs_from_defaults": self.differences,
            "auto": list(self.job.auto),
            "overrides": list(self.job.overrides),
            "identity": self.identity,
        }
        write_atomic(self.path / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False).encode())

    def heartbeat(self, step: int) -> None:
        """Note that the run is alive; writes at most every HEARTBEAT_SECONDS."""
        if time.monotonic() - self._last_heartbeat >= HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            self._change_status(heartbeat=utc_now(), step=step)

    def finish(self, result: RunResult) -> None:
        """Write the result, then mark the run as done."""
        self.write_result(result)
        self.checkpoints().delete()
        self._change_status(state="done", heartbeat=utc_now(), step=self.settings.training_steps)

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed; the traceback goes to run.log."""
        text = one_line(f"{type(error).__name__}: {error}")
        self._change_status(state="failed", error=text, heartbeat=utc_now())
        self.log("".join(traceback.format_exception(error)))

    def interrupt(self) -> None:
        """Mark the run as stopped from outside: the same command goes on with it."""
        self._change_status(state="interrupted", heartbeat=utc_now())
        self.log("interrupted")

    def mark_killed(self, pid: int, reason: str) -> None:
        """Mark the run as failed where its status says that a process runs it which does not any more."""
        status = self.status()
        if status is not None and status.state == "running" and status.pid == pid:
            self._status = status
            self._change_status(state="failed", error=reason)
            self.log(reason)

    def mark_pruned(self, reason: str) -> None:
        """Mark an unfinished run as stopped for good: its checkpoints go, and the next command begins it anew."""
        status = self.status()
        if status is not None and status.state != "done":
            self._status = status
            self.checkpoints().delete()
            self._change_status(state="pruned", error=reason)
            self.log(reason)

    def state(self) -> str | None:
        """running, failed, interrupted or done, as this process knows it."""
        return None if self._status is None else self._status.state

    def trained(self) -> bool:
        """Whether a whole agent of these training settings is there, be it recorded or not."""
        try:
            return self._agent_metadata()["training_identity"] == self.training_identity
        except (OSError, KeyError, safetensors.SafetensorError):
            return False

    def save_agent(self, tensors: dict[str, Tensor], record: TrainingRecord) -> None:
        """agent.safetensors: everything trained, by name, and what result.json will say of the training."""
        # "figures" is what the key was called in the first agents.
        metadata = {"figures": json.dumps(record.fields()), "training_identity": self.training_identity}
        content = safetensors.torch.save(tensors, metadata=metadata)
        write_atomic(self.agent_file, content)
        self.checkpoints().delete()

    def load_agent(self) -> tuple[dict[str, Tensor], TrainingRecord]:
        """What `save_agent` wrote."""
        record = TrainingRecord.model_validate(json.loads(self._agent_metadata()["figures"]))
        return safetensors.torch.load_file(self.agent_file), record

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self._checkpoint_folder)

    def _agent_metadata(self) -> dict[str, str]:
        with safetensors.safe_open(self.agent_file, "pt") as file:
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
        if not self.path.exists():
            return
        for number in itertools.count(1):
            target = self.path.with_name(f"{self.path.name}.old-{number}")
            if not target.exists():
                self.path.replace(target)
                return

    def _change_status(self, **changes: Any) -> None:
        assert self._status is not None  # `begin` comes first
        self._write_status(self._status.model_copy(update=changes))

    def _write_status(self, status: RunStatus) -> None:
        self._status = status
        write_record(self.path / STATUS_FILE, status)


def runs_of(job: Job) -> list[Run]:
    """The runs of a job, one for every seed."""
    return [Run(job, seed) for seed in job.settings.seed]


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
        """Append a row and flush it."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _differences(settings: Any, defaults: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values that differ from the defaults."""
    for key, value in settings.items():
        default = defaults.get(key) if isinstance(defaults, dict) else None
        if isinstance(value, dict):
            yield from _differences(value, default, f"{prefix}{key}.")
        elif value != default:
            yield f"{prefix}{key}", value
