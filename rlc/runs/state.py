"""How far runs are, by what their files say."""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlc.runs.run import FINAL_WEIGHTS, FIRST_OBSERVATIONS, INITIAL_WEIGHTS, StoredRun
from trainers.errors import UserError

# A run without a heartbeat for so long is lost, unless its process is seen alive on this machine.
LOST_SECONDS = 120


@dataclass(frozen=True)
class State:
    """What the files of a run say of it."""

    run: str
    state: str
    """done, running, lost (its process is gone), interrupted (Ctrl-C, termination), failed or missing."""
    step: int
    total_steps: int
    heartbeat_age_s: float | None
    eta_s: float | None
    """Of the training, at its speed so far; null where it has not moved yet."""
    error: str | None


def state_of(run: StoredRun) -> State:
    """How far a run is."""
    status = run.status()
    if status is None:
        return State(run.name, "missing", 0, 0, None, None, None)
    try:
        return _state_by(status, run)
    except (KeyError, TypeError, ValueError, OverflowError):
        return State(
            run.name, "failed", 0, 0, None, None, "its status.json is damaged: do it again with overwrite=true"
        )


def _state_by(status: dict[str, Any], run: StoredRun) -> State:
    if status["state"] == "done":
        whole = run.finished()
        error = None if whole else "a file of it is missing or damaged"
        return State(run.name, "done" if whole else "failed", status["step"], status["total_steps"], None, None, error)
    age = _seconds_since(status["heartbeat"])
    state = status["state"]
    step = status["step"]
    total = status["total_steps"]
    if state == "running" and not _alive(status, age):
        state = "lost"
    left = None
    if state == "running" and step:
        left = (_seconds_since(status["started"]) - age) / step * (total - step)
    return State(run.name, state, step, total, age, left, status["error"])


def check_independent_seeds(runs: Iterable[StoredRun]) -> None:
    """Raises UserError where runs of different seeds began, or ended, the same."""
    seen: dict[tuple[Path, str, str], StoredRun] = {}
    for run in runs:
        for kind in (FIRST_OBSERVATIONS, INITIAL_WEIGHTS, FINAL_WEIGHTS):
            fingerprint = (run.result() or {}).get(kind)
            if fingerprint is None:
                continue
            other = seen.setdefault((run.path.parent, kind, fingerprint), run)
            if other is not run:
                raise UserError(f"{other.path} and {run.path} have the same {kind}: they are no two seeds")


def _alive(status: dict[str, object], age: float) -> bool:
    if status["host"] != socket.gethostname():
        return age < LOST_SECONDS
    try:
        os.kill(int(str(status["pid"])), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
