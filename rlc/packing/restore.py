"""Run directories from packs."""

import json
import os
import shutil
from collections.abc import Sequence

from filelock import FileLock

from compression.files import sha256, write_atomic
from rlc.messages import counted, warn
from rlc.packing.packs import PackedRun, read_pack, record_files, same_outcome
from rlc.runs.files import OUTPUTS, PACK, read_json
from rlc.runs.stored import StoredRun
from trainers.errors import UserError

# In the directory of a study: which packed files were unpacked, and what they held.
MARKER = ".unpacked.json"
LOCK = ".unpack.lock"


def restore(runs: Sequence[PackedRun], study: str) -> int:
    """Make the directories of runs that have none; returns how many.

    Raises UserError, before anything is written, where a policy cannot be made again.
    """
    contents = [(run.path, run.files()) for run in runs if not run.path.exists()]
    if not contents:
        return 0
    (OUTPUTS / study).mkdir(parents=True, exist_ok=True)
    with FileLock(OUTPUTS / study / LOCK):
        missing = [(path, files) for path, files in contents if not path.exists()]
        staged = [path.with_name(f".{path.name}.unpacking") for path, _ in missing]
        for folder, (_, files) in zip(staged, missing, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        os.sync()  # once, rather than for each of so many files
        for folder, (path, _) in zip(staged, missing, strict=True):
            folder.rename(path)
    return len(missing)


def lend_measurements(runs: Sequence[PackedRun]) -> None:
    """Give their measurements to directories of the same runs that have none."""
    for run in runs:
        here = StoredRun(run.path, run.settings, run.seed, run.label, run.identity)
        measurement = run.measurement()
        if measurement is None or here.measurement() is not None or not here.finished():
            continue
        if same_outcome(here.result(), run.result()):
            here.write_measurement(measurement)


def unpack_own(study: str) -> None:
    """Make directories of the runs in the study's own pack that have none, and say how many there were.

    What has a directory stays as it is. Raises UserError where the pack is damaged or nothing can be written.
    """
    home = OUTPUTS / study
    try:
        hashes = {str(file.relative_to(home)): sha256(file.read_bytes()) for file in record_files(home / PACK)}
        known = read_json(home / MARKER) or {}
        if not hashes or (known.get("files") == hashes and all((home / run).exists() for run in known["runs"])):
            return
        runs = read_pack(home / PACK, study)
        count = restore(runs, study)
        lend_measurements(runs)
        directories = [str(run.path.relative_to(home)) for run in runs]
        write_atomic(home / MARKER, json.dumps({"files": hashes, "runs": directories}).encode())
    except OSError as error:
        raise UserError(f"{home}: its pack cannot be unpacked: {error}") from error
    if count:
        warn(f"{home}: {counted(count, 'run')} from its pack")
