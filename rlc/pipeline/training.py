"""Train the seeds of one job in lockstep."""

import ctypes
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rlc.config.settings import Settings
from rlc.messages import warn
from rlc.pipeline import build
from rlc.pipeline.monitor import TrainingMonitor
from rlc.pipeline.tracking import Tracker
from rlc.runs.checkpoint import Checkpoints, Saved
from rlc.runs.run import FINAL_WEIGHTS, FIRST_OBSERVATIONS, INITIAL_WEIGHTS, Run
from trainers.acceleration.compiled import CompiledStep, CompiledUpdate
from trainers.acceleration.cuda_graphs import CudaGraphUpdate, UpdateDraws
from trainers.actor_critic import ActorCritic
from trainers.data.device_replay import DeviceReplayBuffer
from trainers.data.replay import ReplayBuffer
from trainers.envs.make import spec_of
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.envs.workers import SubprocSeedEnvs
from trainers.loops import OnPolicyAgent, off_policy_loop, on_policy_loop
from trainers.on_policy import GaussianActorCritic
from trainers.settings import OffPolicySettings
from trainers.tensors import Snapshot, strip_prefix

Part = ActorCritic | SyncSeedEnvs | SubprocSeedEnvs | ReplayBuffer | UpdateDraws
# How often the loop hands over, for the progress bar and heartbeats, in environment steps per seed.
YIELD_EVERY = 50
# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Trained:
    """A trained agent, the seconds it took (evaluations along the run included) and where each seed began."""

    agent: ActorCritic
    seconds: float
    cpu_seconds: float
    beginnings: list[dict[str, str]]

    def figures(self, i: int) -> dict[str, Any]:
        """What result.json says of the training of seed number i."""
        return {
            "train_seconds": self.seconds,
            "train_cpu_seconds": self.cpu_seconds,
            "lockstep_seeds": len(self.beginnings),
            **self.beginnings[i],
            FINAL_WEIGHTS: fingerprint(self.agent.state(i)),
        }


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Hash of the names and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def untrained_agent(runs: Sequence[Run]) -> ActorCritic:
    """The agent of the runs' seeds, which share one job, before any training."""
    settings = runs[0].settings
    spec = spec_of(settings.env.id)
    device = build.device_of(settings.device)
    return build.build_agent(settings.algo, settings.compress, spec, [run.seed for run in runs], device)


def fit(
    runs: Sequence[Run],
    trackers: Sequence[Tracker],
    agent: ActorCritic,
    settings: Settings,
    saved: Sequence[Saved | None],
    random_warmup: bool = True,
) -> Trained:
    """Train the runs' seeds in lockstep, from their checkpoints, which are of one step, or from the agent.

    Off-policy it begins with random actions, or without `random_warmup` with the agent's own.
    """
    torch.set_num_threads(settings.threads)
    tune_malloc()
    seeds = agent.seeds
    pool = build.build_envs(settings, agent.spec, seeds)
    training = Training(settings, agent, pool)
    checkpoints = [run.checkpoints() for run in runs]
    past: dict[str, Any] = {"step": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    beginnings = training.beginnings()
    for i, (run, one) in enumerate(zip(runs, saved, strict=True)):
        if one is not None:
            past = training.restore(i, one, checkpoints[i])
            run.log(f"goes on from the checkpoint of step {one.step}")
            before = one.snapshot.metadata.get("compile", settings.compile)
            if before != settings.compile:
                text = f"its checkpoint was made with compile={before}: from here on it rounds otherwise".lower()
                run.log(text)
                warn(f"{run.name}: {text}")
    monitor = TrainingMonitor(runs, trackers, agent, pool, settings, past["step"])
    every = settings.checkpoint_every
    began = time.monotonic() - past["seconds"]
    cpu_began = time.process_time() - past["cpu_seconds"]
    try:
        with monitor.progress:
            before = past["step"]
            for step, figures in training.run(before, random_warmup):
                monitor.report(step, figures)
                if every is not None and step // every > before // every and step < settings.total_steps:
                    taken = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
                    for i, own in enumerate(checkpoints):
                        training.save(i, own, {"step": step, **taken})
                before = step
    finally:
        monitor.close()
        training.envs.close()
    return Trained(agent, time.monotonic() - began, time.process_time() - cpu_began, beginnings)


def tune_malloc() -> None:
    """Let glibc use memory again instead of giving it back: the batches of many seeds would fault it in every time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest it takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


class Training:
    """The parts of a training: what learns, what is stepped and what remembers."""

    def __init__(self, settings: Settings, agent: ActorCritic, envs: SyncSeedEnvs | SubprocSeedEnvs) -> None:
        self.settings = settings
        self.agent = agent
        self.envs = envs
        agent.set_matmul_dtype(torch.bfloat16 if settings.precision == "bf16" else torch.float32)
        if settings.overlap:
            agent.enable_policy_lag()
        algo = settings.algo
        self.replay: ReplayBuffer | None = None
        self.graph_update: CudaGraphUpdate | None = None
        if isinstance(algo, OffPolicySettings):
            capacity = min(algo.buffer_size, settings.total_steps)
            shape = (agent.spec, agent.seeds, algo.num_envs)
            on_gpu = agent.device.type == "cuda"
            make_replay = DeviceReplayBuffer if on_gpu else ReplayBuffer
            self.replay = make_replay(*shape, capacity, algo.gamma, agent.device, algo.reward_scale)
            if isinstance(self.replay, DeviceReplayBuffer):
                with_compiler = bool(settings.compile)
                self.graph_update = CudaGraphUpdate(agent, self.replay, algo.batch_size, with_compiler=with_compiler)

    def beginnings(self) -> list[dict[str, str]]:
        """Fingerprints of what each seed begins with."""
        self.envs.reset()
        return [
            {
                FIRST_OBSERVATIONS: fingerprint({"obs": torch.from_numpy(self.envs.obs[i])}),
                INITIAL_WEIGHTS: fingerprint(self.agent.state(i)),
            }
            for i in range(len(self.agent.seeds))
        ]

    def run(self, steps: int, random_warmup: bool) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The loop of the algorithm, from `steps` on."""
        settings = self.settings
        algo = self.settings.algo
        agent = self.agent
        span = {"steps": steps, "total_steps": settings.total_steps}
        if isinstance(algo, OffPolicySettings):
            assert self.replay is not None
            return off_policy_loop(
                agent,
                self._update(algo.batch_size),
                self.envs,
                self.replay,
                lambda: agent.random_actions(algo.num_envs) if random_warmup else agent.act(self.envs.obs),
                **span,
                learning_starts=algo.learning_starts,
                updates_per_step=algo.updates_per_step,
                overlap=settings.overlap,
                yield_every=YIELD_EVERY,
            )
        rollout_steps = algo.rollout_steps
        if settings.compile:
            assert isinstance(agent, GaussianActorCritic)
            agent.step = CompiledStep(agent, type(agent).minibatch_step)
        return on_policy_loop(cast(OnPolicyAgent, agent), self.envs, agent.device, **span, rollout_steps=rollout_steps)

    def _update(self, batch_size: int) -> Callable[[], dict[str, Tensor]]:
        """Samples a batch and learns from it."""
        replay = self.replay
        if self.graph_update is not None:
            return self.graph_update
        assert replay is not None
        update = CompiledUpdate(self.agent) if self.settings.compile else self.agent.update  # type: ignore[attr-defined]
        return lambda: update(replay.sample(batch_size))

    def save(self, i: int, checkpoints: Checkpoints, progress: dict[str, Any]) -> None:
        """Write a checkpoint of seed number i."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {"progress": progress, "compile": self.settings.compile}
        for name, part in self._parts().items():
            snapshot = part.snapshot(i)
            tensors |= {f"{name}.{key}": tensor for key, tensor in snapshot.tensors.items()}
            plain[name] = snapshot.metadata
        checkpoints.save(progress["step"], Snapshot(tensors, plain), self.replay, i)

    def restore(self, i: int, saved: Saved, checkpoints: Checkpoints) -> dict[str, Any]:
        """Put seed number i back to a checkpoint; its progress. Raises RuntimeError where that is impossible."""
        tensors, plain = saved.snapshot
        for name, part in self._parts().items():
            part.restore(i, Snapshot(strip_prefix(f"{name}.", tensors), plain[name]))
        if self.replay is not None:
            checkpoints.restore_replay(saved, self.replay, i)
        progress: dict[str, Any] = plain["progress"]
        return progress

    def _parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {"agent": self.agent, "envs": self.envs}
        if self.replay is not None:
            parts["replay"] = self.replay
        if self.graph_update is not None:
            parts["draws"] = self.graph_update.draws
        return parts
