"""What a GPU needs, on the CPU: environments in workers, acting that lags behind."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import SMALL, SPEC, Count, job, run_until, weights
from trainers.data.replay import ReplayBuffer
from trainers.envs import workers
from trainers.envs.make import make_env, spec_of
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.envs.workers import SubprocSeedEnvs
from trainers.loops import off_policy_loop
from trainers.nn.actor_fn import DelayedActor
from trainers.nn.stacked import StackedMLP
from trainers.tensors import FloatArray


class Breaks(Count):
    """An environment that ends with a number that is not one, or with its process."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def step(self, action: Any) -> Any:
        if self.way == "exit":
            raise SystemExit(3)
        obs, *rest = super().step(action)
        return obs * np.nan, *rest


@pytest.mark.parametrize("cores", [1, 100])
def test_workers_take_the_steps_of_one_process(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, over episodes that end in both ways; and Hopper goes on from the snapshots of the other side.

    With many cores who waits asks again and again, with few it sleeps.
    """
    monkeypatch.setattr(workers, "_usable_cores", lambda: cores)
    seeds, generator = [3, 8, 9], np.random.default_rng(0)
    for make, of, steps in ((Count, SPEC, 20), (functools.partial(make_env, "Hopper-v4"), spec_of("Hopper-v4"), 150)):
        alone, spread = SyncSeedEnvs(make, of, seeds, 2), SubprocSeedEnvs(make, of, seeds, 2, workers=2)
        alone.reset()
        spread.reset()
        assert np.array_equal(alone.obs, spread.obs)
        for t in range(steps):
            action = generator.uniform(-1, 1, (3, 2, of.act_dim)).astype(np.float32)
            one, other = alone.step(action), spread.step(action)
            for name in ("next_obs", "reward", "terminated"):
                assert np.array_equal(getattr(one, name), getattr(other, name))
            assert one.final_obs.keys() == other.final_obs.keys()
            assert all(np.array_equal(obs, other.final_obs[place]) for place, obs in one.final_obs.items())
            if of is not SPEC and t == steps // 2:
                snapshots = [envs.snapshot(2) for envs in (alone, spread)]
                alone.restore(2, snapshots[1])
                spread.restore(2, snapshots[0])
        assert [alone.pop_episodes(s) for s in range(3)] == [spread.pop_episodes(s) for s in range(3)]
        spread.close()


@pytest.mark.parametrize(
    ("way", "error", "text"),
    [("nan", FloatingPointError, "not finite"), ("exit", RuntimeError, "worker died, exit code 3")],
)
def test_what_goes_wrong_in_a_worker_is_raised_here(way: str, error: type[Exception], text: str) -> None:
    envs = SubprocSeedEnvs(functools.partial(Breaks, way), SPEC, [0, 1], 1, workers=2)
    envs.reset()
    for _ in range(2):
        with pytest.raises(error, match=text):
            envs.step(np.zeros((2, 1, 1), np.float32))
    envs.close()


def test_acting_uses_the_actor_published_last_but_one() -> None:
    actor = StackedMLP((2, 1), "relu", [torch.Generator()])
    actor.flatten()
    actor.flat.zero_()
    delayed_actor, seen = DelayedActor(actor), []
    for n in range(1, 5):
        seen.append(delayed_actor(np.zeros((1, 1, 2), np.float32)).item())
        actor.linears[0].bias.data.fill_(n)
        delayed_actor.publish()
    assert seen == [0, 0, 1, 2]


class Recorder:
    """An agent that writes down what is asked of it."""

    def __init__(self, replay: ReplayBuffer) -> None:
        self.replay, self.log = replay, list[str]()

    def act(self, obs: FloatArray) -> FloatArray:
        self.log.append("act")
        return np.zeros((1, 1, 1), np.float32)

    def update(self) -> dict[str, torch.Tensor]:
        self.log.append(f"update after {self.replay.num_added}")
        return {}

    def publish(self) -> None:
        self.log.append("publish")


@pytest.mark.parametrize("overlap", [False, True])
def test_updates_that_overlap_do_not_see_the_step_in_flight(overlap: bool) -> None:
    envs, replay = SyncSeedEnvs(Count, SPEC, [0], 1), ReplayBuffer(SPEC, [0], 1, 10, 0.9, torch.device("cpu"))
    agent: Any = Recorder(replay)
    numbers = {"steps": 0, "total_steps": 4, "learning_starts": 2, "updates_per_step": 1}
    warmup = lambda: np.zeros((1, 1, 1), np.float32)  # noqa: E731
    list(off_policy_loop(agent, agent.update, envs, replay, warmup, **numbers, overlap=overlap, yield_every=1))
    first, second = (2, 3) if overlap else (3, 4)
    assert agent.log == ["act", f"update after {first}", "publish", "act", f"update after {second}", "publish"]


@pytest.mark.slow
def test_a_stopped_training_that_lags_ends_as_one_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In workers and not; and the lag makes another training."""
    monkeypatch.chdir(tmp_path)
    qat = "+compress=qat"
    more = f"overlap=true {qat}"
    whole, parts, plain = (
        job("sac", f"study=whole {more}"),
        job("sac", f"study=parts {more}"),
        job("sac", f"study=plain {qat}"),
    )
    spread = job("sac", f"study=spread env_workers=2 {more}")
    run_until(950, parts, monkeypatch)
    for one in (whole, parts, plain, spread):
        run_job(one)
    for seed in (4, 5):
        expected = weights(Run(whole, seed).path)
        assert weights(Run(parts, seed).path) == weights(Run(spread, seed).path) == expected
        assert weights(Run(plain, seed).path) != expected
        assert "goes on from the checkpoint" in (Run(parts, seed).path / "run.log").read_text()


def test_workers_serve_rollouts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, spread = job("ppo", "study=plain"), job("ppo", "study=spread env_workers=2")
    assert "algo.num_envs=2" in SMALL["ppo"]
    for one in (plain, spread):
        run_job(one)
    assert weights(Run(plain, 4).path) == weights(Run(spread, 4).path)
