"""How far runs are, by what their files say."""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rlc.runs.outline import Who
from rlc.runs.records import RunStatus
from trainers.errors import UserError

# A run without a heartbeat for so long is lost, unless its process is seen alive on this machine.
LOST_SECONDS = 120


class Seen(Protocol):
    """What is asked of a run, be it read whole or from the index of its study."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str: ...

    @property
    def who(self) -> Who: ...

    def status(self) -> RunStatus | None: ...

    def finished(self) -> bool: ...

    def fingerprints(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class State:
    """What the files of a run say of it."""

    run: str
    state: str
    """done, running, lost (its process is gone), interrupted (Ctrl-C, termination), pruned (by a search), failed or
    missing."""
    step: int
    total_steps: int
    heartbeat_age_s: float | None
    eta_s: float | None
    """Of the training, at its speed so far; null where it has not moved yet."""
    error: str | None


def state_of(run: Seen) -> State:
    """How far a run is. Raises UserError for records of a newer schema."""
    status = run.status()
    if status is None:
        return State(run.name, "missing", 0, 0, None, None, None)
    step = status.step
    total = status.total_steps
    if status.state == "done":
        if run.finished():
            return State(run.name, "done", step, total, None, None, None)
        return State(run.name, "failed", step, total, None, None, "a file of it is missing or damaged")
    age = _seconds_since(status.heartbeat)
    if status.state in ("failed", "interrupted", "pruned"):
        return State(run.name, status.state, step, total, age, None, status.error)
    if not _alive(status, age):
        return State(run.name, "lost", step, total, age, None, status.error)
    eta = None
    if step:
        eta = (_seconds_since(status.started) - age) / step * (total - step)
    return State(run.name, "running", step, total, age, eta, status.error)


def check_independent_seeds(runs: Iterable[Seen]) -> None:
    """Raises UserError where runs of different seeds began, or ended, the same."""
    seen: dict[tuple[Path, str, str], Seen] = {}
    for run in runs:
        for kind, fingerprint in run.fingerprints().items():
            first = seen.setdefault((run.path.parent, kind, fingerprint), run)
            if first is not run:
                raise UserError(f"{first.path} and {run.path} have the same {kind}: they are no two seeds")


def _alive(status: RunStatus, age: float) -> bool:
    if status.host != socket.gethostname():
        return age < LOST_SECONDS
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
