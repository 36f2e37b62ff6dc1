"""Train the seeds of one job in lockstep."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from rlc.config.settings import Settings
from rlc.messages import warn
from rlc.pipeline import build
from rlc.pipeline.allocation import tune_malloc
from rlc.pipeline.monitor import TrainingMonitor
from rlc.pipeline.restorability import Restorability
from rlc.pipeline.signals import HeldSignals
from rlc.pipeline.tracking import Tracker
from rlc.runs.checkpoint import Checkpoints, Saved
from rlc.runs.records import TrainingRecord
from rlc.runs.run import Run
from trainers.acceleration.compiled import CompiledStep, CompiledUpdate
from trainers.acceleration.cuda_graphs import CudaGraphUpdate, UpdateDraws
from trainers.actor_critic import ActorCritic
from trainers.data.device_replay import DeviceReplayBuffer
from trainers.data.replay import ReplayBuffer
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.envs.workers import SubprocSeedEnvs
from trainers.loops import OnPolicyAgent, off_policy_loop, on_policy_loop
from trainers.on_policy import GaussianActorCritic
from trainers.policy import Policy
from trainers.settings import OffPolicySettings
from trainers.tensors import Snapshot, strip_prefix

Part = ActorCritic | SyncSeedEnvs | SubprocSeedEnvs | ReplayBuffer | UpdateDraws
# How often the loop hands over, for the progress bar and heartbeats, in environment steps per seed.
YIELD_EVERY = 50


class MadePolicy(NamedTuple):
    """A policy before it is exported, and what result.json says of its making."""

    policy: Policy
    record: TrainingRecord


class Progress(NamedTuple):
    """How far a training is, at what cost."""

    step: int
    seconds: float
    cpu_seconds: float


class Untrained(NamedTuple):
    """A run that is to be trained, from its checkpoint if there is one."""

    run: Run
    tracker: Tracker
    saved: Saved | None


@dataclass(frozen=True)
class Trained:
    """A trained agent, the seconds it took (evaluations along the run included) and where each seed began."""

    agent: ActorCritic
    seconds: float
    cpu_seconds: float
    beginnings: list[dict[str, str]]

    def record(self, i: int) -> TrainingRecord:
        """What result.json says of the training of seed number i."""
        return TrainingRecord(
            train_seconds=self.seconds,
            train_cpu_seconds=self.cpu_seconds,
            lockstep_seeds=len(self.beginnings),
            **self.beginnings[i],
            final_weights_sha256=fingerprint(self.agent.state(i)),
        )


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Hash of the names and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_runs(runs: Sequence[Run], trackers: Sequence[Tracker]) -> None:
    """Train the runs of one job that are not trained yet, in lockstep, and save their agents.

    Seeds may have stopped at different steps: those at the same step go on together.
    """
    groups: dict[int, list[Untrained]] = defaultdict(list)
    for run, tracker in zip(runs, trackers, strict=True):
        if run.settings.trains and not run.trained():
            saved = run.checkpoints().newest()
            step = 0 if saved is None else saved.step
            groups[step].append(Untrained(run, tracker, saved))
    for step in sorted(groups):
        group = groups.pop(step)  # its checkpoints are not held any longer than its training
        members = [untrained.run for untrained in group]
        own_trackers = [untrained.tracker for untrained in group]
        checkpoints = [untrained.saved for untrained in group]
        trained = train(members, own_trackers, make_agent(members), members[0].settings, checkpoints)
        for i, run in enumerate(members):
            run.save_agent(trained.agent.state(i), trained.record(i))


def make_agent(runs: Sequence[Run]) -> ActorCritic:
    """The agent of the runs' seeds, which share one job, before any training."""
    settings = runs[0].settings
    device = build.device_of(settings.device)
    return build.build_agent(settings.algo, settings.compress, runs[0].spec, [run.seed for run in runs], device)


def load_trained(run: Run) -> MadePolicy:
    """The policy of the saved agent of a run."""
    tensors, record = run.load_agent()
    settings = run.settings
    agent = build.build_agent(settings.algo, settings.compress, run.spec, [run.seed], torch.device("cpu"))
    agent.load_state(0, tensors)
    return MadePolicy(agent.policy(0), record)


def train(
    runs: Sequence[Run],
    trackers: Sequence[Tracker],
    agent: ActorCritic,
    settings: Settings,
    saved: Sequence[Saved | None],
    random_warmup: bool = True,
) -> Trained:
    """Train the runs' seeds in lockstep, from their checkpoints or from the agent.

    Args:
        runs: of one job, one for each seed of the agent.
        trackers: one for each run.
        agent: trained in place; its seeds are those of the runs.
        settings: of the training; `total_steps` may be others than the runs'.
        saved: the checkpoint of each run, all of one step; None to begin.
        random_warmup: whether off-policy begins with random actions, or with the agent's own.
    """
    torch.set_num_threads(settings.threads)
    tune_malloc()
    envs = build.build_envs(settings, runs[0].make_env, agent.spec, agent.seeds)
    training = Training(settings, agent, envs)
    beginnings = training.start()
    can_be_restored = Restorability(agent.spec, envs)
    checkpoints = [run.checkpoints() for run in runs]
    progress = Progress(0, 0.0, 0.0)
    for i, (run, checkpoint) in enumerate(zip(runs, saved, strict=True)):
        if checkpoint is not None:
            progress = training.restore(i, checkpoint, checkpoints[i])
            _log_restored(run, checkpoint, settings)
    monitor = TrainingMonitor(runs, trackers, agent, envs, settings, progress.step)
    began = time.monotonic() - progress.seconds
    cpu_began = time.process_time() - progress.cpu_seconds
    last_step = progress.step
    try:
        # What overflows is refused by its name where it is acted with or observed: NumPy need not warn too.
        with monitor.progress, HeldSignals() as signals, np.errstate(over="ignore", invalid="ignore"):
            for step, metrics in training.run(progress.step, random_warmup):
                monitor.report(step, metrics)
                if _checkpoint_due(settings, last_step, step, signals) and can_be_restored():
                    now = Progress(step, time.monotonic() - began, time.process_time() - cpu_began)
                    for i, folder in enumerate(checkpoints):
                        training.save(i, folder, now)
                signals.release()
                last_step = step
    finally:
        monitor.close()
        training.envs.close()
    return Trained(agent, time.monotonic() - began, time.process_time() - cpu_began, beginnings)


def _checkpoint_due(settings: Settings, last_step: int, step: int, signals: HeldSignals) -> bool:
    """Whether a multiple of checkpoint_every lies between two reports, or a signal ends the training here."""
    every = settings.checkpoint_every
    if every is None:
        return False
    # At the end the agent itself is saved, but behind a signal it is not.
    return signals.noted is not None or (step // every > last_step // every and step < settings.total_steps)


def _log_restored(run: Run, saved: Saved, settings: Settings) -> None:
    run.log(f"goes on from the checkpoint of step {saved.step}")
    compiled = saved.snapshot.metadata.get("compile", settings.compile)
    if compiled != settings.compile:
        text = f"its checkpoint was made with compile={compiled}: from here on it rounds otherwise".lower()
        run.log(text)
        warn(f"{run.name}: {text}")


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
                self.graph_update = CudaGraphUpdate(agent, self.replay, algo.batch_size)

    def start(self) -> list[dict[str, str]]:
        """Reset the environments; fingerprints of what each seed begins with, by their name in result.json."""
        self.envs.reset()
        beginnings = []
        for i in range(len(self.agent.seeds)):
            observations = fingerprint({"obs": torch.from_numpy(self.envs.obs[i])})
            weights = fingerprint(self.agent.state(i))
            beginnings.append({"first_observations_sha256": observations, "initial_weights_sha256": weights})
        return beginnings

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
            agent.use_compiled_step(CompiledStep(agent, type(agent).minibatch_step))
        return on_policy_loop(cast(OnPolicyAgent, agent), self.envs, agent.device, **span, rollout_steps=rollout_steps)

    def _update(self, batch_size: int) -> Callable[[], dict[str, Tensor]]:
        """Samples a batch and learns from it."""
        replay = self.replay
        if self.graph_update is not None:
            return self.graph_update
        assert replay is not None
        update = CompiledUpdate(self.agent) if self.settings.compile else self.agent.update  # type: ignore[attr-defined]
        return lambda: update(replay.sample(batch_size))

    def save(self, i: int, checkpoints: Checkpoints, progress: Progress) -> None:
        """Write a checkpoint of seed number i."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {"progress": progress._asdict(), "compile": self.settings.compile}
        for name, part in self._parts().items():
            snapshot = part.snapshot(i)
            tensors |= {f"{name}.{key}": tensor for key, tensor in snapshot.tensors.items()}
            plain[name] = snapshot.metadata
        checkpoints.save(progress.step, Snapshot(tensors, plain), self.replay, i)

    def restore(self, i: int, saved: Saved, checkpoints: Checkpoints) -> Progress:
        """Put seed number i back to a checkpoint; its progress. Raises RuntimeError where that is impossible."""
        tensors, plain = saved.snapshot
        for name, part in self._parts().items():
            part.restore(i, Snapshot(strip_prefix(f"{name}.", tensors), plain[name]))
        if self.replay is not None:
            checkpoints.restore_replay(saved, self.replay, i)
        return Progress(**plain["progress"])

    def _parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {"agent": self.agent, "envs": self.envs}
        if self.replay is not None:
            parts["replay"] = self.replay
        if self.graph_update is not None:
            parts["draws"] = self.graph_update.draws
        return parts
