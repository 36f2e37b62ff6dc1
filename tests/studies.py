"""Studies of runs that never were, with known answers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlc.config.plan import make_plan
from rlc.reporting.study import Study, Task
from rlc.runs.identity import label
from rlc.runs.records import MeasuredTimes, Measurement
from rlc.runs.stored import StoredRun
from tests.helpers import make_result

HOPPER = Task("sac", "Hopper-v4")
Add = Callable[..., StoredRun]


def writer(folder: Path) -> Add:
    """What writes results of runs that never were into a folder."""

    def write(words: str, seed: int, score: float, fp32: float | None = None, **changes: Any) -> StoredRun:
        job = make_plan(words.split()).jobs[0]
        own, settings = label(job), job.settings
        path = folder / settings.env.id / settings.algo.name / own / f"seed{seed}"
        path.mkdir(parents=True)
        run = StoredRun(path, settings, seed, own, "")
        fp32_score = score if settings.is_fp32 else fp32
        run.write_result(make_result(**({"return_mean": float(score), "fp32_return_mean": fp32_score} | changes)))
        return run

    return write


def three_seeds(
    add: Add, words: str, scores: Sequence[float], fp32: Sequence[float], **figures: Any
) -> list[StoredRun]:
    return [add(words, seed, *pair, **figures) for seed, pair in enumerate(zip(scores, fp32, strict=True))]


def study_of(add: Add, tasks: Sequence[str], best: float = 1000.0, **shares: float) -> Study:
    """Three seeds per task and method, with the given share of the fp32 return above random, which is about `best`."""
    runs = []
    for words in tasks:
        fp32 = [best + 20, best + 120, best + 220]
        runs += three_seeds(add, words, fp32, fp32)
        for method, share in shares.items():
            scores = [20 + share * (score - 20) + k for k, score in enumerate(fp32)]
            runs += three_seeds(add, f"{words} +compress={method.replace('__', ' compress.ratio=0.')}", scores, fp32)
    return Study(runs)


def times_of(study: Study, onnx: Mapping[str, float], native: Mapping[str, float]) -> None:
    """Give all cells the times of their method in us; those that are not named were not timed."""
    for cell in study.cells.values():
        method = cell.variant.partition("-")[0]
        times = MeasuredTimes(onnx_run_p50_us=onnx.get(method), native_p50_us=native.get(method))
        cell.measurements[:] = [Measurement(infer=times)] * cell.n
