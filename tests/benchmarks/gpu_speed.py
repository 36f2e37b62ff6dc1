"""Training speed of the off-policy algorithms on a GPU: steps per second of every seed, and where a step's time goes.

    python tests/benchmarks/gpu_speed.py --algos sac,td3,ddpg --seeds 1,10,32 --out gpu.jsonl
    python tests/benchmarks/gpu_speed.py --algos sac --seeds 10 --variants overlap --parts --profile profile.txt

Every measurement is a fresh child process; the next one loads its libraries meanwhile. `eager` calls the update,
`graph` replays it as a CUDA graph, `overlap` has the environments step in workers meanwhile. A steady state is timed:
learning has begun, graphs are recorded. Time is the clock's, with the device waited for at both ends. `--parts` times
the calls of the loop on the host: a call that only queues work for the GPU is short, one that waits for it is long.
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

WARMUP = 300  # environment steps before learning
UNTIMED = 300  # with learning, before the clock starts
PROFILED = 30
VARIANTS = ("eager", "graph", "overlap", "overlap+bf16")


def loop_parts(update: Any, training: Any) -> dict[str, tuple[Any, str]]:
    """The calls of the off-policy loop that are timed, by the name in the output."""
    return {
        "act": (training.agent, "act"),
        "publish": (training.agent, "publish"),
        "env step begin": (training.envs, "step_async"),
        "env step wait": (training.envs, "step_wait"),
        "replay add": (training.replay, "add"),
        "sample and update": (update, "call"),
    }


class Update:
    """An update as an object, so that its call can be timed like the others."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self) -> Any:
        return self.call()


def eager(agent: Any, replay: Any, batch_size: int) -> Callable[[], Any]:
    """Sample on the host and update, without a recording."""
    return lambda: agent.update(replay.sample(batch_size))


def timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """`function`, which adds what each call takes to `seconds[name]`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - began

    return call


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_in_turn(given: dict[str, Any]) -> dict[str, Any]:
    """As `measure`, when no other child measures."""
    import rlc.pipeline.training  # noqa: F401 (takes seconds, and may take them now)

    with FileLock(given["lock"]):
        return measure(given)


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """Train and time; the record of one measurement."""
    from rlc.config.plan import make_plan
    from rlc.pipeline import build
    from rlc.pipeline.allocation import tune_malloc
    from rlc.pipeline.training import Training
    from trainers.envs.make import make_env, spec_of
    from trainers.loops import off_policy_loop
    from trainers.settings import OffPolicySettings

    seeds = list(range(given["seeds"]))
    total = WARMUP + UNTIMED + given["steps"]
    variant = given["variant"]
    line = [f"+algo={given['algo']}", f"env.id={given['env']}", f"seed={seeds}".replace(" ", "")]
    line += [f"total_steps={total}", f"algo.learning_starts={WARMUP}", f"device={given['device']}"]
    line += [] if given["workers"] is None else [f"env_workers={given['workers']}"]
    line += ["precision=bf16"] * ("bf16" in variant)
    if variant.startswith("overlap"):
        line += ["overlap=true", *([f"env_workers={max(1, len(seeds) // 2)}"] if given["workers"] is None else [])]
    torch.set_num_threads(1)
    tune_malloc()
    settings = make_plan(line).jobs[0].settings
    algo, device = settings.algo, build.device_of(settings.device)
    spec = spec_of(settings.env.id)
    agent = build.build_agent(algo, settings.compress, spec, seeds, device)
    training = Training(
        settings, agent, build.build_envs(settings, functools.partial(make_env, settings.env.id), spec, seeds)
    )
    assert isinstance(algo, OffPolicySettings)
    assert training.replay is not None
    call: Callable[[], Any] | None = training.graph_update
    if variant == "eager" or call is None:
        call = eager(agent, training.replay, algo.batch_size)
    update = Update(call)
    steps = off_policy_loop(
        agent,
        update,
        training.envs,
        training.replay,
        lambda: agent.random_actions(algo.num_envs),
        steps=0,
        total_steps=total,
        learning_starts=WARMUP,
        updates_per_step=algo.updates_per_step,
        overlap=settings.overlap,
        yield_every=PROFILED,
    )
    seconds: dict[str, float] = defaultdict(float)
    began, begin = 0.0, 0
    try:
        for step, _ in steps:
            if not begin and step >= WARMUP + UNTIMED:
                if given["parts"]:
                    for name, (part, method) in loop_parts(update, training).items():
                        setattr(part, method, timed(getattr(part, method), name, seconds))
                synchronize(device)
                begin, began = step, time.perf_counter()
        synchronize(device)
        elapsed = time.perf_counter() - began
        if given["profile"]:
            profile(training, update, Path(given["profile"]))
    finally:
        training.envs.close()
    timed_steps = total - begin
    record = {key: given[key] for key in ("algo", "env", "seeds", "variant")}
    record |= {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "env_workers": settings.env_workers,
        "timed_steps": timed_steps,
        "steps_per_second_per_seed": timed_steps / elapsed,
        "ms_per_step": 1000 * elapsed / timed_steps,
        "peak_gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    }
    if given["parts"]:
        record["ms_of_parts"] = {name: round(1000 * value / timed_steps, 4) for name, value in seconds.items()}
    return record


def profile(training: Any, update: Any, file: Path) -> None:
    """Write what a few updates do on the host and on the device."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as run:
        for _ in range(PROFILED):
            update()
            training.agent.publish()
        synchronize(training.agent.device)
    averages = run.key_averages()
    by_device = "cuda_time_total" if torch.cuda.is_available() else "cpu_time_total"
    tables = [
        averages.table(sort_by=key, row_limit=40, max_name_column_width=80) for key in (by_device, "cpu_time_total")
    ]
    file.write_text("\n\n".join(tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default="sac,td3,ddpg")
    parser.add_argument("--envs", default="HalfCheetah-v4")
    parser.add_argument("--seeds", default="1,10,32", help="numbers of seeds in lockstep")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=2000, help="timed steps of each seed")
    parser.add_argument("--workers", type=int, help="env_workers; by default 0, with overlap one for two seeds")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", action="store_true", help="time the calls of the loop on the host")
    parser.add_argument("--profile", help="file for a profile of a few updates")
    parser.add_argument("--out", type=Path, help="JSON lines are appended to it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure_in_turn(json.loads(args.child))))
        return
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        shared = {name: getattr(args, name) for name in ("steps", "workers", "device", "parts", "profile")}
        shared["lock"] = str(Path(folder) / "lock")
        cells = itertools.product(
            args.algos.split(","), args.envs.split(","), map(int, args.seeds.split(",")), args.variants.split(",")
        )
        measurements = [shared | dict(zip(("algo", "env", "seeds", "variant"), cell, strict=True)) for cell in cells]
        for record in pool.map(measured, measurements):
            print(record, flush=True)
            if args.out and record.startswith("{"):
                with args.out.open("a") as file:
                    file.write(record + "\n")


def measured(given: dict[str, Any]) -> str:
    """The record of one measurement by a child as a line of JSON, or why there is none."""
    run = subprocess.run([sys.executable, __file__, "--child", json.dumps(given)], capture_output=True, text=True)
    if run.returncode:
        name = " ".join(str(given[key]) for key in ("algo", "env", "seeds", "variant"))
        return f"{name}: {run.stderr.strip().splitlines()[-1]}"
    return run.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
