"""Shared by all tests: one torch thread, small agents, batches on the random stream of each seed, a study."""

import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compression.qat import prepare_qat
from rlc.cli import run_command
from rlc.config.compose import default_settings
from rlc.config.job import Job
from rlc.config.plan import make_plan
from rlc.config.settings import parse_settings
from rlc.pack import pack
from rlc.pipeline.build import build_agent
from rlc.pipeline.job import run_job
from rlc.runs.identity import training_identity, with_names_of_now
from rlc.runs.run import OUTPUTS, Run
from tests.packed import DERIVED, LINES, MEASURED, PACK, runs_of, tree
from tests.packed import SAC as SAC_LINE
from trainers.actor_critic import ActorCritic
from trainers.data.replay import Batch
from trainers.data.rollout import Rollout
from trainers.envs.spec import EnvSpec
from trainers.sac import SAC

SAC_SETTINGS: dict[str, Any] = {
    "hidden": [32, 32],
    "activation": "relu",
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha": 0.2,
    "initial_alpha": 1.0,
    "alpha_lr": 3e-4,
    "tau": 0.005,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def spec(obs_dim: int = 5, act_dim: int = 3, bound: float = 0.4) -> EnvSpec:
    return EnvSpec("Test-v0", obs_dim, act_dim, (-bound,) * act_dim, (bound,) * act_dim)


def make_sac(of: EnvSpec, seeds: Sequence[int], qat: bool = False, device: str = "cpu", **changes: Any) -> SAC:
    transform = functools.partial(prepare_qat, standardize_input=True, reduce_range=False) if qat else None
    return SAC(of, seeds, torch.device(device), transform_actor=transform, **(SAC_SETTINGS | changes))


ALGORITHMS = ("trpo", "ppo", "ddpg", "td3", "sac")
ON_POLICY = ("trpo", "ppo")
POLICIES = Path(__file__).parent / "data" / "policies"


def make_agent(algo: str, of: EnvSpec, seeds: Sequence[int], qat: bool = False, **changes: Any) -> ActorCritic:
    """An agent as conf/ configures it, but for the changes."""
    overrides = [f"+algo={algo}", *(f"algo.{key}={value}" for key, value in changes.items())]
    settings = make_plan(overrides + ["+compress=qat"] * qat).jobs[0].settings
    return build_agent(settings.algo, settings.compress, of, seeds, torch.device("cpu"))


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
    (run.path / "status.json").write_text(json.dumps({"state": "done", "identity": run.identity}))
    return run


def wandb_holds(folder: Path, *names: bytes) -> bool:
    """Whether the one offline W&B run of a directory holds them; the client writes a moment after `finish` returned."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 20
    while not all(name in file.read_bytes() for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="session")
def study_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with trainings of two algorithms, what derives from them, and the pack of it all."""
    home = tmp_path_factory.mktemp("study")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for line in LINES:
            run_job(make_plan(line.split()).jobs[0])
            assert all(run.finished() for run in runs_of(line)), line
        runs_of(f"{SAC_LINE} {DERIVED[0]}")[0].write_measurement(MEASURED)
        pack(["study=paper"])
    return home


@pytest.fixture
def study_clone(study_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that has nothing but the pack, and in which nothing can be trained."""
    shutil.copytree(study_home / PACK, tmp_path / PACK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlc.pipeline.job.fit", None)
    return tmp_path


@pytest.fixture
def study_copy(study_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study with its runs and its pack, to be changed."""
    shutil.copytree(study_home / OUTPUTS, tmp_path / OUTPUTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line of a command that ends with code 2 and has written nothing."""

    def refuse(command: Callable[[list[str]], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        before = tree(Path())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
        assert tree(Path()) == before
        return shown.err

    return refuse
