"""Checkpoints of one seed's training: a small state that is written anew, and replay segments that are written once.

A checkpoint is valid when its manifest is there and every file has the hash that the manifest names. The one
before the newest is kept, for the case that the newest is damaged.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch

from compression.files import sha256, write_atomic
from rlc.messages import warn
from trainers.data.replay import ReplayBuffer
from trainers.tensors import Snapshot

# Environment steps (times num_envs transitions) in a replay segment.
SEGMENT_ROWS = 10_000
KEPT = 2
TAIL = "replay_tail"


class Saved(NamedTuple):
    """A valid checkpoint, read."""

    step: int
    snapshot: Snapshot
    segments: dict[str, str]
    """Hash of each replay segment by file name, oldest first."""


class Checkpoints:
    """The folder of the checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: dict[str, str] = {}

    def save(self, step: int, snapshot: Snapshot, replay: ReplayBuffer | None, i: int) -> None:
        """Write a checkpoint of seed number i, then drop what no kept checkpoint needs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = dict(snapshot.tensors)
        if replay is not None:
            tensors[TAIL] = torch.from_numpy(self._write_segments(replay, i))
        state = safetensors.torch.save(tensors, {"plain": json.dumps(snapshot.metadata)})
        write_atomic(self.folder / _state_name(step), state)
        manifest = {"step": step, "state": sha256(state), "segments": self._segments}
        write_atomic(self.folder / _manifest_name(step), json.dumps(manifest, indent=1).encode())
        self._drop_old()

    def newest(self) -> Saved | None:
        """The newest valid checkpoint. Newer ones are damaged: it says so and removes their manifests."""
        for step in reversed(self._steps()):
            try:
                return self._read(step)
            except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
                warn(f"{self.folder / _manifest_name(step)}: damaged checkpoint left out: {error}")
                (self.folder / _manifest_name(step)).unlink()
        return None

    def restore_replay(self, saved: Saved, replay: ReplayBuffer, i: int) -> None:
        """Put the transitions of a checkpoint back into the memory of seed number i."""
        self._segments = dict(saved.segments)
        for name in saved.segments:
            rows = np.load(self.folder / name, allow_pickle=False)
            replay.put_rows(i, _end(name) - len(rows), rows)
        tail = saved.snapshot.tensors[TAIL].numpy()
        replay.put_rows(i, replay.num_added - len(tail), tail)

    def delete(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_segments(self, replay: ReplayBuffer, i: int) -> np.ndarray:
        """Write each segment that is full and not on disk yet; returns the rows behind the last full one."""
        full = replay.num_added // SEGMENT_ROWS * SEGMENT_ROWS
        oldest = max(0, replay.num_added - replay.capacity)
        for end in range((oldest // SEGMENT_ROWS + 1) * SEGMENT_ROWS, full + 1, SEGMENT_ROWS):
            name = f"replay-{end:010d}.npy"
            if name not in self._segments:
                buffer = io.BytesIO()
                np.save(buffer, replay.rows(i, max(end - SEGMENT_ROWS, oldest), end), allow_pickle=False)
                write_atomic(self.folder / name, buffer.getvalue())
                self._segments[name] = sha256(buffer.getvalue())
        self._segments = {name: sha for name, sha in self._segments.items() if _end(name) > oldest}
        return replay.rows(i, max(full, oldest), replay.num_added)

    def _drop_old(self) -> None:
        steps = self._steps()
        for step in steps[:-KEPT]:
            (self.folder / _manifest_name(step)).unlink()
            (self.folder / _state_name(step)).unlink(missing_ok=True)
        needed: set[str] = set()
        for step in steps[-KEPT:]:
            needed.update(self._manifest(step)["segments"])
        for path in self.folder.glob("replay-*.npy"):
            if path.name not in needed:
                path.unlink()

    def _steps(self) -> list[int]:
        """Steps of all manifests, ascending."""
        return sorted(int(path.stem.removeprefix("manifest-")) for path in self.folder.glob("manifest-*.json"))

    def _manifest(self, step: int) -> dict[str, Any]:
        manifest = json.loads((self.folder / _manifest_name(step)).read_text())
        if not isinstance(manifest, dict):
            raise ValueError("not a manifest")
        return manifest

    def _read(self, step: int) -> Saved:
        """Raises one of the errors of `newest` where anything is missing or damaged."""
        manifest = self._manifest(step)
        for name, expected in {_state_name(step): manifest["state"], **manifest["segments"]}.items():
            if sha256((self.folder / name).read_bytes()) != expected:
                raise ValueError(f"the hash of {name} is not the one in its manifest")
        path = self.folder / _state_name(step)
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["plain"])
        return Saved(step, Snapshot(safetensors.torch.load_file(path), metadata), manifest["segments"])


def _state_name(step: int) -> str:
    return f"state-{step}.safetensors"


def _manifest_name(step: int) -> str:
    return f"manifest-{step}.json"


def _end(segment: str) -> int:
    """Number of the row behind the segment's last."""
    return int(Path(segment).stem.removeprefix("replay-"))
