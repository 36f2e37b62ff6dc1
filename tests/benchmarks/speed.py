"""Training speed beside Stable-Baselines3, SBX and RLtools, and beside what the machine allows. Run by hand:

    pip install --editable '.[bench]'
    python tests/benchmarks/speed.py --algos sac,ppo --envs HalfCheetah-v4,Humanoid-v4 --seeds 1,8 --out speed.csv

Every measurement is a fresh child process, pinned to one core and one thread; candidates take turns, so that a noisy
machine troubles all of them alike: read the ratios. Off-policy: 256-256, batch 256, one update per step, one
environment, learning under way. On-policy: 64-64 tanh, 2048 steps, batch 64, 10 epochs, whole rollouts with their
updates. Time is that of the CPU, which on a quiet machine is the clock's. Steps are summed over the seeds in lockstep.
The limits: the matrix products of the updates alone, and the environment alone. Memory is of the whole process with a
replay memory of the steps of this run only. RLtools without MKL is many times slower than with it.
"""

import argparse
import csv
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

ON_POLICY = ("ppo", "trpo")
ROLLOUT, EPOCHS = 2048, 10
WARMUP, UNTIMED = 300, 100  # steps before learning, and with learning before the clock starts
VARIANTS = {"fp32": "precision=fp32", "qat": "+compress=qat", "bf16": "precision=bf16", "compile": "compile=true"}
PEERS = {"sb3": "stable_baselines3", "sbx": "sbx", "rltools": "rltools"}
LACKING = {"sbx": ("trpo",), "rltools": ("ddpg", "ppo", "trpo")}


def clocked(times: Iterator[tuple[int, float]], begin: int, total: int) -> float:
    """Steps per second from the first mark at or behind step `begin` to the mark at `total`."""
    marks = [mark for mark in times if mark[0] >= begin]
    (first, began), (last, ended) = marks[0], marks[-1]
    assert last == total
    return (last - first) / (ended - began)


def ours(algo: str, env_id: str, begin: int, total: int, seeds: int, variant: str) -> float:
    """`variant`: of VARIANTS, joined by +."""
    from rlc.config.plan import make_plan
    from rlc.pipeline import build
    from rlc.pipeline.allocation import tune_malloc
    from rlc.pipeline.training import Training
    from trainers.envs.make import make_env, spec_of
    from trainers.envs.seed_envs import SyncSeedEnvs

    line = [f"+algo={algo}", f"env.id={env_id}", f"total_steps={total}", "algo.num_envs=1"]
    line += [VARIANTS[part] for part in variant.split("+")]
    if algo in ON_POLICY:
        epochs = "epochs" if algo == "ppo" else "critic_epochs"
        line += [f"algo.rollout_steps={ROLLOUT}", "algo.batch_size=64", f"algo.{epochs}={EPOCHS}"]
        line += ["algo.recompute_advantages=false"] * (algo == "ppo")
    else:
        line += [f"algo.learning_starts={WARMUP}"] + ["algo.alpha=auto"] * (algo == "sac")
    tune_malloc()
    settings = make_plan(line).jobs[0].settings
    spec, numbers = spec_of(env_id), list(range(seeds))
    agent = build.build_agent(settings.algo, settings.compress, spec, numbers, torch.device("cpu"))
    pool = SyncSeedEnvs(lambda: make_env(env_id), spec, numbers, 1)
    steps = Training(settings, agent, pool).run(0, random_warmup=True)
    return seeds * clocked(((step, time.process_time()) for step, _ in steps), begin, total)


def stable_baselines(algo: str, env_id: str, begin: int, total: int, package: str = "stable_baselines3") -> float:
    """Stable-Baselines3 or sb3-contrib, or SBX, which has its interface."""
    import gymnasium as gym
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    env = gym.make(env_id, disable_env_checker=True)
    settings: dict[str, Any] = {"batch_size": 64, "n_steps": ROLLOUT}
    if algo == "trpo":
        package, settings = "sb3_contrib", settings | {"n_critic_updates": EPOCHS, "cg_max_steps": 10}
    elif algo == "ppo":
        settings |= {"n_epochs": EPOCHS}
    else:
        policy = {"net_arch": [256, 256]}
        settings = {"batch_size": 256, "learning_starts": WARMUP, "buffer_size": total, "policy_kwargs": policy}
        settings |= {"train_freq": 1, "gradient_steps": 1}
        if algo != "sac":
            size = math.prod(env.action_space.shape or ())
            settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    if package != "sbx":
        settings["device"] = "cpu"
    marks: list[tuple[int, float]] = []

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            marks.append((self.num_timesteps, time.process_time()))

    model = getattr(importlib.import_module(package), algo.upper())("MlpPolicy", env, seed=0, **settings)
    model.learn(total, callback=Clock())
    return clocked(iter([*marks, (total, time.process_time())]), begin, total)


def rltools(algo: str, env_id: str, begin: int, total: int) -> float:
    import gymnasium as gym
    import rltools as library

    steps = {"STEP_LIMIT": total, "REPLAY_BUFFER_CAP": total, "N_WARMUP_STEPS": WARMUP}
    widths = {f"{net}_HIDDEN_DIM": 256 for net in ("ACTOR", "CRITIC")}
    batches = {f"{net}_BATCH_SIZE": 256 for net in ("ACTOR", "CRITIC")}
    factory = lambda: gym.make(env_id, disable_env_checker=True)  # noqa: E731
    module = getattr(library, algo.upper())(factory, enable_evaluation=False, **steps, **widths, **batches)
    state = module.State(0)
    marks = []
    for step in range(1, total + 1):
        state.step()
        marks.append((step, time.process_time()))
    return clocked(iter(marks), begin, total)


def environment(algo: str, env_id: str, begin: int, total: int) -> float:
    import gymnasium as gym

    env = gym.make(env_id, disable_env_checker=True)
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(1000)]
    began = time.process_time()
    for action in actions:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return len(actions) / (time.process_time() - began)


def products(algo: str, env_id: str, begin: int, total: int) -> float:
    """Environment steps per second if the updates were their matrix products and all else were free."""
    import gymnasium as gym

    env = gym.make(env_id)
    (obs,), (act,) = env.observation_space.shape, env.action_space.shape  # type: ignore[misc]
    hidden, batch = ((64, 64), 64) if algo in ON_POLICY else ((256, 256), 256)
    actor = [obs, *hidden, 2 * act if algo == "sac" else act]
    critic = [obs if algo in ON_POLICY else obs + act, *hidden, 1]

    def forward(sizes: list[int], rows: int = batch) -> list[tuple[int, int, int]]:
        return [(rows, i, o) for i, o in pairwise(sizes)]

    def inputs(sizes: list[int], rows: int = batch) -> list[tuple[int, int, int]]:
        return [(rows, o, i) for i, o in pairwise(sizes)]

    def weights(sizes: list[int], rows: int = batch) -> list[tuple[int, int, int]]:
        return [(o, rows, i) for i, o in pairwise(sizes)]

    def learn(sizes: list[int], rows: int = batch) -> list[tuple[int, int, int]]:
        return forward(sizes, rows) + inputs(sizes, rows)[1:] + weights(sizes, rows)

    twins = 1 if algo == "ddpg" else 2
    if algo == "ppo":
        per_step = [(learn(actor) + learn(critic), EPOCHS / batch)]
    elif algo == "trpo":
        conjugate_gradient = 10 * (2 * learn(actor, ROLLOUT))
        per_step = [(learn(critic), EPOCHS / batch), (learn(actor, ROLLOUT) + conjugate_gradient, 1 / ROLLOUT)]
    else:
        followed = 2 if algo == "sac" else 1  # critics behind the actor's loss
        critics = forward(actor) + twins * (forward(critic) + learn(critic))
        actors = learn(actor) + followed * (forward(critic) + inputs(critic))
        per_step = [(critics, 1.0), (actors, 0.5 if algo == "td3" else 1.0)]
    return 1 / sum(share * seconds_of(shapes) for shapes, share in per_step)


def seconds_of(shapes: list[tuple[int, int, int]]) -> float:
    # Weights lie as [out, in]: the layout of a training's forward products.
    pairs = [(torch.randn(m, k), torch.randn(n, k).T) for m, k, n in shapes]
    times = []
    for _ in range(30):
        began = time.process_time()
        for a, b in pairs:
            torch.mm(a, b)
        times.append(time.process_time() - began)
    return statistics.median(times)


CANDIDATES: dict[str, Callable[..., float]] = {
    "ours": ours,
    "sb3": stable_baselines,
    "sbx": stable_baselines,
    "rltools": rltools,
    "environment": environment,
    "products": products,
}


def child(core: int, candidate: str, arguments: dict[str, Any]) -> None:
    """Measure one candidate and print the result."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    speed = CANDIDATES[candidate](**arguments)
    print(json.dumps([speed, peak_megabytes()]))


def peak_megabytes() -> float:
    """Not ru_maxrss, which begins with the memory of the parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(core: int, candidate: str, arguments: dict[str, Any]) -> tuple[float, float]:
    """Steps per second and peak memory in MB, from a fresh process."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    peers = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "RL_TOOLS_IGNORE_TORCH_WARNING": "1"}
    command = [sys.executable, __file__, "--child", json.dumps([core, candidate, arguments])]
    done = subprocess.run(command, env=os.environ | threads | peers, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{candidate} {arguments}: {done.stderr}")
    speed, memory = json.loads(done.stdout.splitlines()[-1])
    return speed, memory


def candidates(algo: str, seeds: list[int], variants: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name in the table, candidate and its own arguments."""
    for name, module in PEERS.items():
        if algo in LACKING.get(name, ()):
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        yield name, name, {"package": module} if name != "rltools" else {}
    for count in seeds:
        for variant in variants:
            if "bf16" not in variant or algo not in ON_POLICY:
                yield f"ours {variant} {count}", "ours", {"seeds": count, "variant": variant}
    yield "environment", "environment", {}
    yield "products", "products", {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default="sac,td3,ddpg,ppo,trpo")
    parser.add_argument("--envs", default="HalfCheetah-v4")
    parser.add_argument("--seeds", default="1,8", help="numbers of seeds in lockstep")
    parser.add_argument("--variants", default="fp32", help="of ours: fp32,qat,bf16,compile,compile+bf16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="timed steps, shared by the seeds (off-policy)")
    parser.add_argument("--rollouts", type=int, default=2, help="timed rollouts with their updates (on-policy)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*json.loads(args.child))
    rows: list[list[object]] = []
    columns = ["algo", "env", "candidate", "steps/s", "vs sb3", "lowest", "highest", "of products", "of env", "MB"]
    print(*columns, sep="\t")
    for algo in args.algos.split(","):
        for env_id in args.envs.split(","):
            entries = list(candidates(algo, [int(n) for n in args.seeds.split(",")], args.variants.split(",")))
            results: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in entries}
            for _ in range(args.repeats):
                for name, candidate, own in entries:
                    timed = max(args.steps // own.get("seeds", 1), 50)
                    begin, total = WARMUP + UNTIMED, WARMUP + UNTIMED + timed
                    if algo in ON_POLICY:
                        begin, total = ROLLOUT, ROLLOUT * (1 + args.rollouts)
                    given = {"algo": algo, "env_id": env_id, "begin": begin, "total": total} | own
                    results[name].append(measure(args.core, candidate, given))
            speeds = {name: [speed for speed, _ in result] for name, result in results.items()}
            for name, result in results.items():
                ratios = sorted(a / b for a, b in zip(speeds[name], speeds.get("sb3", []), strict=False))
                spread = [statistics.median(ratios), ratios[0], ratios[-1]] if ratios else ["", "", ""]
                shares = [
                    statistics.median(a / b for a, b in zip(speeds[name], speeds[limit], strict=True))
                    for limit in ("products", "environment")
                ]
                memory = max(megabytes for _, megabytes in result)
                figures = [statistics.median(speeds[name]), *spread, *shares, memory]
                rows.append([algo, env_id, name, *(f"{x:.3g}" if isinstance(x, float) else x for x in figures)])
                print(*rows[-1], sep="\t", flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])


if __name__ == "__main__":
    main()
