"""What a step of training costs, by algorithm and environment: rlc/data/costs.csv, from which grids are estimated.

python tests/benchmarks/costs.py --out rlc/data/costs.csv

One pinned thread, one seed, default settings (compiled where a compiler is found), learning under way: off-policy
behind the first steps of learning, on-policy over whole updates. Not with other work beside it.
"""

import argparse
import csv
import time
from itertools import product
from pathlib import Path

import torch

from measure.machine import one_pinned_thread
from rlc.config.decide import decide
from rlc.config.plan import make_plan
from rlc.pipeline import build
from rlc.pipeline.training import Training
from rlc.reporting.study import ALGORITHMS
from trainers.envs.make import make_env, spec_of
from trainers.envs.seed_envs import SyncSeedEnvs

ENVIRONMENTS = ("halfcheetah", "humanoid_standup", "ant", "humanoid", "hopper")
WARM_UP = 300  # steps before the clock starts, behind `learning_starts`
TIMED = 700
UPDATES = 8  # of on-policy algorithms, behind the first one


def steps_per_second(algo: str, env: str, compress: str) -> float:
    """Environment steps a second of one seed."""
    on_policy = algo in ("trpo", "ppo")
    words = [f"+algo={algo}", f"env={env}", f"+compress={compress}"]
    (job,) = make_plan([*words] if on_policy else [*words, f"algo.learning_starts={WARM_UP}"]).jobs
    rollout = getattr(job.settings.algo, "rollout_steps", 0)
    start, end = (rollout, (1 + UPDATES) * rollout) if on_policy else (2 * WARM_UP, 2 * WARM_UP + TIMED)
    # `compile=auto` is decided for the whole training, not for the part of it that is timed.
    decided, _ = decide(job.settings)
    settings = decided.model_copy(update={"total_steps": end})
    spec = spec_of(settings.env.id)
    agent = build.build_agent(settings.algo, settings.compress, spec, [0], torch.device("cpu"))
    pool = SyncSeedEnvs(lambda: make_env(settings.env.id), spec, [0], settings.algo.num_envs)
    began = 0.0
    for steps, _ in Training(settings, agent, pool).run(0, random_warmup=True):
        if steps == start:
            began = time.perf_counter()
    pool.close()
    return (end - start) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    with one_pinned_thread(), out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["algo", "env", "fp32_steps_per_second", "qat_steps_per_second"])
        for algo, env in product(ALGORITHMS, ENVIRONMENTS):
            speeds = [steps_per_second(algo, env, compress) for compress in ("fp32", "qat")]
            (job,) = make_plan([f"+algo={algo}", f"env={env}"]).jobs
            writer.writerow([algo, job.settings.env.name, *(f"{speed:.1f}" for speed in speeds)])
            print(algo, env, *(f"{speed:.0f}" for speed in speeds), flush=True)


if __name__ == "__main__":
    main()
