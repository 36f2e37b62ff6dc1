"""A small study of two algorithms, and what the tests of its pack do with files."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlc.config.plan import make_plan
from rlc.packing.packs import record_text
from rlc.runs.files import OUTPUTS
from rlc.runs.records import MeasuredEnergy, MeasuredTimes, Measurement
from rlc.runs.run import Run

SMALL = "env.id=Pendulum-v1 total_steps=400 algo.hidden=[16,16] eval.episodes=2 eval.evaluations=1 wandb.mode=disabled"
SAC = f"{SMALL} study=paper +algo=sac algo.learning_starts=200 algo.batch_size=16"
TRPO = f"{SMALL} study=paper +algo=trpo algo.rollout_steps=200"
DISTILL = "compress.finetune=distill compress.distill.rounds=1 compress.distill.states=50 compress.distill.steps=20"
DERIVED = ("+compress=ptsq compress.calibration_steps=100", "+compress=prune_l2", f"+compress=prune_l2 {DISTILL}")
TRAINED = (f"{SAC} seed=[0,1]", f"{SAC} +compress=qat", TRPO)
LINES = (*TRAINED, *(f"{trained} {derived}" for trained in (SAC, TRPO) for derived in DERIVED))
PACK = OUTPUTS / "paper" / "pack"
RECORDS = PACK / "Pendulum-v1" / "sac.jsonl.gz"
MEASURED = Measurement(
    infer=MeasuredTimes(onnx_run_p50_us=8.0), energy=MeasuredEnergy(joules_per_1000_actions=None, missing_reason="none")
)
Change = Callable[[list[dict[str, Any]]], Any]


def runs_of(line: str) -> list[Run]:
    """The runs of a line of the study."""
    (job,) = make_plan(line.split()).jobs
    return [Run(job, seed) for seed in job.settings.seed]


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of all files but locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in tree(folder).items()}


def change(file: Path, by: Change) -> None:
    """Change the records of a file."""
    records = [json.loads(line) for line in record_text(file).splitlines()]
    by(records)
    file.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
