"""What several test modules use: small agents, random batches, a counting environment, trainings that crash."""

import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from compression.imports.layers import Imported, Request
from compression.imports.read import read_foreign
from compression.qat import prepare_qat
from rlc.config.compose import default_settings
from rlc.config.job import Job
from rlc.config.plan import make_plan
from rlc.config.settings import parse_settings
from rlc.pipeline.build import build_agent
from rlc.pipeline.job import run_job
from rlc.pipeline.monitor import TrainingMonitor
from rlc.runs.files import write_record
from rlc.runs.identity import training_identity, with_names_of_now
from rlc.runs.records import Provenance, RunResult, RunStatus
from rlc.runs.run import Run
from trainers.actor_critic import ActorCritic
from trainers.data.replay import Batch
from trainers.data.rollout import Rollout
from trainers.ddpg import DDPG
from trainers.envs.make import spec_of
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError
from trainers.on_policy import GaussianActorCritic
from trainers.policy import Policy
from trainers.sac import SAC, SACSettings
from trainers.td3 import TD3
from trainers.tensors import FloatArray

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"

SAC_SETTINGS: dict[str, Any] = {
    "name": "sac",
    "hidden": [32, 32],
    "activation": "relu",
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha": 0.2,
    "initial_alpha": 1.0,
    "alpha_lr": 3e-4,
    "gamma": 0.99,
    "tau": 0.005,
    "reward_scale": 1.0,
    "batch_size": 256,
    "buffer_size": 1000,
    "learning_starts": 0,
    "updates_per_step": 1,
    "num_envs": 1,
}


def spec(obs_dim: int = 5, act_dim: int = 3, bound: float = 0.4) -> EnvSpec:
    return EnvSpec("Test-v0", obs_dim, act_dim, (-bound,) * act_dim, (bound,) * act_dim)


def make_sac(of: EnvSpec, seeds: Sequence[int], qat: bool = False, device: str = "cpu", **changes: Any) -> SAC:
    transform = functools.partial(prepare_qat, standardize_input=True, reduce_range=False) if qat else None
    settings = SACSettings.model_validate(SAC_SETTINGS | changes)
    return SAC(of, seeds, settings, torch.device(device), transform_actor=transform)


ALGORITHMS = ("trpo", "ppo", "ddpg", "td3", "sac")
ON_POLICY = ("trpo", "ppo")
OffPolicy = DDPG | TD3 | SAC
POLICIES = DATA / "policies"


FEW_BITS = "compress.weight_bits=3 compress.activation_bits=4 compress.input_bits=6"


def make_agent(algo: str, of: EnvSpec, seeds: Sequence[int], qat: bool | str = False, **changes: Any) -> ActorCritic:
    """An agent as conf/ configures it, but for the changes; with settings of quantisation-aware training or without."""
    overrides = [f"+algo={algo}", *(f"algo.{key}={value}" for key, value in changes.items())]
    quantized = ["+compress=qat", *(qat.split() if isinstance(qat, str) else [])] if qat else []
    settings = make_plan(overrides + quantized).jobs[0].settings
    return build_agent(settings.algo, settings.compress, of, seeds, torch.device("cpu"))


def make_off_policy(algo: str, of: EnvSpec, seeds: Sequence[int], qat: bool | str = False, **changes: Any) -> OffPolicy:
    """As `make_agent`, of an algorithm that learns from batches."""
    agent = make_agent(algo, of, seeds, qat, **changes)
    assert isinstance(agent, OffPolicy)
    return agent


def make_on_policy(
    algo: str, of: EnvSpec, seeds: Sequence[int], qat: bool | str = False, **changes: Any
) -> GaussianActorCritic:
    """As `make_agent`, of an algorithm that learns from rollouts."""
    agent = make_agent(algo, of, seeds, qat, **changes)
    assert isinstance(agent, GaussianActorCritic)
    return agent


def rollouts(of: EnvSpec, seeds: Sequence[int], steps: int, num_envs: int) -> Callable[[ActorCritic], Rollout]:
    """A source of rollouts of an agent in a world of noise, in which every seed has a stream of its own."""
    generators = [torch.Generator().manual_seed(2000 + seed) for seed in seeds]

    def normal(*shape: int) -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators])

    def draw(agent: ActorCritic) -> Rollout:
        obs = normal(steps, num_envs, of.obs_dim) * 3 + 1
        action = torch.stack([torch.from_numpy(agent.act(obs[:, t].numpy())) for t in range(steps)], 1)
        chance = normal(steps, num_envs)
        reward = obs[..., 0] * action[..., 0] + normal(steps, num_envs)
        return Rollout(obs, action, reward, normal(steps, num_envs, of.obs_dim), chance > 2, chance > 1.5)

    return draw


def batches(of: EnvSpec, seeds: Sequence[int], batch_size: int, device: str = "cpu") -> Callable[[], Batch]:
    """A source of random batches in which every seed has a stream of its own."""
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    half_range = torch.tensor(of.action_high)

    def normal(*shape: int) -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators])

    def draw() -> Batch:
        alive = (normal(batch_size) > -1).float()
        batch = Batch(
            normal(batch_size, of.obs_dim) * 3 + 1,
            normal(batch_size, of.act_dim).tanh() * half_range,
            normal(batch_size),
            0.99 * alive,
            normal(batch_size, of.obs_dim) * 3 + 1,
        )
        return Batch(*(x.to(device) for x in batch))

    return draw


def as_run(policy: str, **changes: Any) -> Run:
    """A trained policy of tests/data as the finished run it came from, in outputs/ of the working directory."""
    folder = POLICIES / policy
    config = yaml.safe_load((folder / "config.yaml").read_text())
    settings = parse_settings(default_settings() | with_names_of_now(config["settings"]) | changes)
    defaults = make_plan([f"+algo={settings.algo.name}", f"env.id={settings.env.id}"]).jobs[0].settings
    job = Job(settings, defaults)
    run = Run(job, settings.seed[0])
    run.artifact.mkdir(parents=True)
    for name in ("policy.onnx", "policy.safetensors", "policy.json"):
        shutil.copy(folder / name, run.artifact)
    if (folder / "agent.safetensors").exists():
        shutil.copy(folder / "agent.safetensors", run.path)
    result = json.loads((folder / "result.json").read_text())
    result |= {"identity": run.identity, "training_identity": training_identity(settings), "label": run.label}
    (run.path / "result.json").write_text(json.dumps(result))
    config = {"settings": settings.model_dump(), "identity": run.identity}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    write_record(run.path / "status.json", make_status(run.identity))
    return run


def make_status(identity: str, state: Literal["running", "failed", "done"] = "done") -> RunStatus:
    """The status of a run that never was."""
    moment = "2026-01-01T00:00:00Z"
    return RunStatus(
        state=state,
        error=None,
        identity=identity,
        host="nowhere",
        pid=1,
        started=moment,
        heartbeat=moment,
        step=10,
        total_steps=10,
    )


def make_result(**changes: Any) -> RunResult:
    """The result of a run that never was."""
    machine = Provenance(git_commit="0123456789", git_dirty=False, versions={}, cpu="", gpus=[], cores=1)
    fields: dict[str, Any] = {
        "env_id": "Hopper-v4",
        "algo": "sac",
        "compress": "fp32",
        "label": "fp32",
        "seed": 0,
        "identity": "identity",
        "training_identity": "training identity",
        "total_steps": 10,
        "return_mean": 1.0,
        "return_std": 1.0,
        "episode_returns": [0.0, 2.0],
        "episode_lengths": [5, 5],
        "fp32_return_mean": 1.0,
        "fp32_return_std": 1.0,
        "fp32_missing_reason": None,
        "random_return_mean": 20.0,
        "random_return_std": 1.0,
        "zero_return_mean": 0.0,
        "zero_return_std": 0.0,
        "onnx_file_bytes": 1000,
        "weight_bytes": 900,
        "parity": {"states": 1024, "max": 0.0},
        "device": "cpu",
        "provenance": machine,
    }
    return RunResult(**(fields | changes))


def wandb_holds(folder: Path, *names: bytes) -> bool:
    """Whether the one offline W&B run of a directory holds them; the client writes a moment after `finish` returned."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 20
    while not all(name in file.read_bytes() for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


SPEC = EnvSpec("Count-v0", 2, 1, (-1.0,), (1.0,))


class Count(gym.Env[Any, Any]):
    """Observation (episode, step); terminates after 3 steps in even episodes, is cut after 5 in odd ones."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.episode = seed % 7
        self.episode, self.step_in_episode = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.step_in_episode += 1
        even = self.episode % 2 == 0
        terminated = even and self.step_in_episode == 3
        truncated = not even and self.step_in_episode == 5
        return self._obs(), 10.0 * self.episode + self.step_in_episode, terminated, truncated, {}

    def _obs(self) -> Any:
        return np.array([self.episode, self.step_in_episode], np.float64)


class Crash(Exception):
    pass


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    report = TrainingMonitor.report

    def crashing(self: TrainingMonitor, now: int, metrics: dict[str, torch.Tensor]) -> None:
        if now >= step:
            raise Crash
        report(self, now, metrics)

    monkeypatch.setattr(TrainingMonitor, "report", crashing)


def run_until(step: int, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job that crashes at a step."""
    with monkeypatch.context() as context:
        crash_at(step, context)
        run_job(job)


def assert_a_stop_changes_nothing(whole: Job, parts: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same two seeds, the job that is stopped and goes on ends in the weights of the one that is not."""
    run_job(whole)
    run_until(950, parts, monkeypatch)
    run_job(parts)
    for seed in (4, 5):
        assert weights(Run(whole, seed).path) == weights(Run(parts, seed).path)
        assert "goes on from the checkpoint" in (Run(parts, seed).path / "run.log").read_text()


SMALL = {
    "trpo": "algo.rollout_steps=128 algo.critic_epochs=1 algo.num_envs=2",
    "ppo": "algo.rollout_steps=128 algo.epochs=2 algo.num_envs=2",
    "ddpg": "algo.learning_starts=300 algo.batch_size=16 algo.buffer_size=400",
    "td3": "algo.learning_starts=300 algo.batch_size=16 algo.num_envs=2 algo.policy_delay=3",
    "sac": "algo.learning_starts=300 algo.batch_size=16 algo.alpha=auto",
}


def job(algo: str, more: str = "", seed: str = "[4,5]") -> Job:
    line = f"+algo={algo} env=hopper seed={seed} total_steps=1000 checkpoint_every=200"
    line += " eval.episodes=1 eval.evaluations=2 wandb.mode=disabled"
    return make_plan(f"{line} algo.hidden=[16] {SMALL[algo]} {more}".split()).jobs[0]


def weights(path: Path) -> list[str]:
    figures = json.loads((path / "result.json").read_text())
    return [figures["final_weights_sha256"], figures["initial_weights_sha256"]]


def probe_observations(of: EnvSpec, scale: float = 3.0) -> FloatArray:
    """A thousand observations [1000, obs_dim]."""
    return (scale * np.random.default_rng(0).normal(size=(1000, of.obs_dim))).astype(np.float32)


def act_on(policy: Policy, obs: FloatArray) -> FloatArray:
    """The actions of a policy in torch."""
    actions: FloatArray = policy(torch.from_numpy(obs)).numpy()
    return actions


def import_file(path: Path, env_id: str, **said: str | None) -> Imported:
    """A policy that was trained elsewhere; its actions lie inside the bounds."""
    imported = read_foreign(Request(path, spec_of(env_id), **said))
    of = imported.policy.spec
    actions = act_on(imported.policy, probe_observations(of, 100.0)).astype(np.float64)
    assert (actions >= of.action_low).all()
    assert (actions <= of.action_high).all()
    return imported


def import_refusal(path: Path, env_id: str, **said: str | None) -> str:
    """The one line that refuses a file."""
    with pytest.raises(UserError) as caught:
        read_foreign(Request(path, spec_of(env_id), **said))
    assert "\n" not in str(caught.value)
    return str(caught.value)
