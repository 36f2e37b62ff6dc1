"""How long planning, status and report take at the size of the paper's study and beyond.

    python tests/benchmarks/scale.py make <folder> [<runs>]     a study called `scale` of so many finished runs (10,000)
    python tests/benchmarks/scale.py time <folder>              plan, help, status twice, report: seconds and memory

The runs are made up: settings are those of `+experiment=paper` with more seeds, returns are drawn, and all have one of
the committed policies as hard links. What is read and checked of each is what is read of a real one.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from compression.files import sha256
from rlc.config.plan import make_plan
from rlc.runs.records import Provenance, RunResult
from rlc.runs.run import Run
from tests.helpers import POLICIES

POLICY = POLICIES / "sac-hopper"
FILES = ("policy.onnx", "policy.safetensors", "policy.json")
METRICS_ROWS = 20
PROVENANCE = Provenance(git_commit="0" * 40, git_dirty=False, versions={}, cpu="x", gpus=[], cores=1)


def main() -> None:
    """Do what the arguments say."""
    command, folder, *more = sys.argv[1:]
    if command == "make":
        make(Path(folder), int(more[0]) if more else 10_000)
    else:
        measure(Path(folder))


def make(folder: Path, count: int) -> None:
    """Write the runs, and nothing where a run is."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = folder / "policy"
    policy.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(POLICY / name, policy / name)
    os.chdir(folder)
    for run in runs(count):
        write(run, Path("policy").absolute())
    print(f"{count} runs in {folder / 'outputs/scale'}")


def runs(count: int) -> Iterator[Run]:
    """So many runs of the paper's grid, with seeds from 0 on."""
    jobs = make_plan(["+experiment=paper", "study=scale", "seed=0"]).jobs
    for number in range(count):
        job = jobs[number % len(jobs)]
        seed = number // len(jobs)
        yield Run(job.with_seeds([seed]), seed)


def write(run: Run, policy: Path) -> None:
    """The directory of one finished run."""
    if run.path.exists():
        return
    run.begin()
    run.artifact.mkdir()
    for name in FILES:
        os.link(policy / name, run.artifact / name)
    (run.path / "agent.safetensors").write_bytes(b"")
    if run.settings.trains:
        rows = [f"{step * 50_000},{random.gauss(1000, 100)}" for step in range(METRICS_ROWS)]
        (run.path / "metrics.csv").write_text("\n".join(["global_step,eval/return_mean", *rows]) + "\n")
    run.finish(result_of(run))


def result_of(run: Run) -> RunResult:
    """A result with drawn returns, those of a run the same every time."""
    drawn = random.Random(str(run.path))
    returns = [drawn.gauss(1000, 200) for _ in range(10)]
    prints = {kind: sha256(f"{run.path}{kind}".encode()) for kind in ("first", "initial", "final")}
    return RunResult(
        env_id=run.settings.env.id,
        algo=run.settings.algo.name,
        protocol=run.settings.protocol,
        compress=run.settings.compress.method,
        label=run.label,
        seed=run.seed,
        identity=run.identity,
        training_identity=run.training_identity,
        total_steps=run.settings.total_steps,
        return_mean=sum(returns) / len(returns),
        return_std=200.0,
        episode_returns=returns,
        episode_lengths=[1000] * 10,
        fp32_return_mean=1000.0 + run.seed,
        fp32_return_std=200.0,
        fp32_missing_reason=None,
        random_return_mean=10.0,
        random_return_std=1.0,
        zero_return_mean=0.0,
        zero_return_std=1.0,
        onnx_file_bytes=279009 if run.settings.is_fp32 else 80000,
        weight_bytes=270000,
        parity={"states": 1000, "mean": 0.0, "p99": 0.0, "max": 0.0},
        final_weights_sha256=prints["final"],
        first_observations_sha256=prints["first"],
        initial_weights_sha256=prints["initial"],
        device="cpu",
        provenance=PROVENANCE,
    )


def measure(folder: Path) -> None:
    """Time each command in a process of its own; user seconds are those that a busy machine does not stretch."""
    plan = "from rlc.config.plan import make_plan; print(len(make_plan(['+experiment=paper']).jobs), 'jobs')"
    commands = {
        "plan": ["-c", plan],
        "help": ["-m", "rlc.train", "--help"],
        "status, first": ["-m", "rlc.status", "study=scale"],
        "status, again": ["-m", "rlc.status", "study=scale"],
        "report": ["-m", "rlc.report", "study=scale", "wandb.mode=disabled"],
    }
    for path in (folder / "outputs/scale").glob(".index.json"):
        path.unlink()
    print(f"{'':15} {'seconds':>8} {'user':>8} {'MB':>7}   last line")
    for name, arguments in commands.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        began = time.monotonic()
        found = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - began
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        # The largest child so far: the commands stand from small to large.
        megabytes = usage.ru_maxrss / 1000
        last = found.stdout.splitlines()[-1][:60]
        print(f"{name:15} {seconds:8.1f} {usage.ru_utime - before:8.1f} {megabytes:7.0f}   {last}", flush=True)


if __name__ == "__main__":
    main()
