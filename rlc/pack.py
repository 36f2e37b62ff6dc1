"""Put the finished runs of a study into a few files, for git: python -m rlc.pack study=paper [to=<folder>]"""

import gzip
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch

from compression.files import CONTRACT_FILE, TENSOR_FILE, sha256, write_atomic
from rlc.cli import given_path, only, positional, run_command
from rlc.messages import counted, warn
from rlc.packing.packs import (
    SCHEMA,
    PackedRun,
    Record,
    of_study,
    read_pack,
    record_files,
    record_text,
    same_outcome,
    shortened,
)
from rlc.runs.files import MEASUREMENT_FILE, OUTPUTS, PACK, RESULT_FILE, STATUS_FILE, read_json
from rlc.runs.find import finished_runs
from rlc.runs.state import check_independent_seeds
from rlc.runs.stored import METRICS_FILE, PACKED_PART, StoredRun, algorithm_directory, read_config
from trainers.errors import UserError

# The networks of an agent that make its policy; the others only train it.
POLICY_PARTS = ("actor.", "observations.")


def pack(arguments: list[str]) -> None:
    """Pack every finished run, beside what the folder has already.

    Raises UserError, before anything is written, where the folder has a run of other settings in the place of one
    of these, or is damaged, or seeds repeat.
    """
    values = only(positional(arguments, "study"), ("study", "to"), required=("study",))
    study = values["study"]
    folder = given_path(values["to"]) if values.get("to") else OUTPUTS / study / PACK
    merged = {run.path: run for run in read_pack(folder, study)} if record_files(folder) else {}
    tensors: dict[Path, bytes] = {}
    for stored in finished_runs(study):
        try:
            packed, content = _packed(stored, folder, study)
        except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError, UserError) as error:
            warn(f"left out: {stored.path}: cannot be packed: {error}")
            continue
        run = _newest(packed, merged.get(packed.path))
        merged[run.path] = run
        if content is not None and run.record["tensors"] == packed.record["tensors"]:
            tensors[packed.tensor_file] = content
    runs = list(merged.values())
    if not runs:
        raise UserError(f"study={study}: there is no finished run in {OUTPUTS / study}; rlc.status tells how far it is")
    check_independent_seeds(runs)
    trained = [run for run in runs if run.settings.trains]
    for run in trained:
        if run.tensor_file not in tensors:
            run.tensors()
    written = _write(tensors, _texts(runs))
    paths = {run.file for run in runs} | {run.tensor_file for run in trained}
    size = sum(path.stat().st_size for path in paths)
    policies = "1 policy" if len(trained) == 1 else f"{len(trained)} policies"
    print(f"{folder}: {counted(len(runs), 'run')}, {policies}, {size / 1e6:.2f} MB; wrote {counted(written, 'file')}")


def _packed(stored: StoredRun, folder: Path, study: str) -> tuple[PackedRun, bytes | None]:
    """A finished run as a record, and its tensors if it is a training, which were seen to make its policy.

    Raises OSError, LookupError, TypeError, ValueError, SafetensorError or UserError for a run of another shape.
    """
    content = contract = None
    if stored.settings.trains:
        content = _policy_tensors(stored)
        contract = json.loads((stored.artifact / CONTRACT_FILE).read_text())
    # As the files have it, so that a pack gives back their bytes.
    status = read_json(stored.path / STATUS_FILE) or {}
    status.pop("artifact", None)
    metrics = stored.path / METRICS_FILE
    tensors = None
    if content is not None:
        tensors = {"file": f"{stored.label}/seed{stored.seed}.safetensors", "sha256": sha256(content)}
    record: Record = {
        "schema": SCHEMA,
        "label": stored.label,
        "seed": stored.seed,
        "config": read_config(stored.path),
        "status": status,
        "result": read_json(stored.path / RESULT_FILE),
        "measurement": read_json(stored.path / MEASUREMENT_FILE),
        "metrics": metrics.read_bytes().decode() if metrics.exists() else None,
        "contract": contract and shortened(contract),
        "tensors": tensors,
    }
    algorithm = algorithm_directory(stored.settings)
    file = folder / algorithm.parent.name / f"{algorithm.name}.jsonl.gz"
    packed = PackedRun(of_study(record, study), file)
    if contract is not None and packed.contract() != contract:
        raise ValueError("its contract has numbers that are no float32")
    if content is not None and not _holds(packed.tensor_file, content):
        packed.artifact_files(content)
    return packed, content


def _policy_tensors(run: StoredRun) -> bytes:
    """Of fp32 the actor with all its heads and its statistics, which other runs are made from; else of the artifact."""
    if not run.settings.is_fp32:
        return (run.artifact / TENSOR_FILE).read_bytes()
    agent = safetensors.torch.load_file(run.agent_file)
    part = {name: tensor for name, tensor in agent.items() if name.startswith(POLICY_PARTS)}
    return safetensors.torch.save(part, metadata=PACKED_PART)


def _newest(run: PackedRun, other: PackedRun | None) -> PackedRun:
    """The later of two records of a run, the first where they are equally old, completed by the other of one outcome.

    Raises UserError where they are not of the same run.
    """
    if other is None:
        return run
    if run.identity != other.identity:
        raise UserError(f"{run.path} and {other.file}: {run.name} has different settings in them")
    is_newer = run.status().heartbeat >= other.status().heartbeat
    newer, older = (run, other) if is_newer else (other, run)
    return newer.completed(older) if same_outcome(newer.result(), older.result()) else newer


def _texts(runs: Iterable[PackedRun]) -> dict[Path, str]:
    """The lines of every file of records."""
    of_file: dict[Path, list[PackedRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.label, run.seed)):
        of_file[run.file].append(run)
    return {file: "".join(map(_line, packed)) for file, packed in of_file.items()}


def _line(run: PackedRun) -> str:
    return json.dumps(run.record, separators=(",", ":")) + "\n"


def _write(tensors: dict[Path, bytes], texts: dict[Path, str]) -> int:
    """Write what is not there already, records behind the tensors that they name; returns how many files."""
    changed = {path: content for path, content in tensors.items() if not _holds(path, content)}
    # By their text: another zlib writes other bytes of it.
    changed |= {path: _gzip(text) for path, text in texts.items() if not path.exists() or record_text(path) != text}
    for path, content in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return len(changed)


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _gzip(text: str) -> bytes:
    """Without a time and a name, so that equal text makes equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, buffer, mtime=0) as file:
        file.write(text.encode())
    return buffer.getvalue()


if __name__ == "__main__":
    run_command(pack)
