"""Stop and go on: environments, agents, memories and whole trainings end as if never stopped, bit for bit."""

import csv
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlc.pipeline.job import run_job
from rlc.runs.checkpoint import KEPT, Checkpoints
from rlc.runs.run import Run
from tests.helpers import ALGORITHMS, FEW_BITS, SPEC, Count, job, make_on_policy, rollouts, run_until, spec, weights
from trainers.data.replay import ReplayBuffer
from trainers.envs.make import make_env, spec_of
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.tensors import Snapshot


@pytest.fixture
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def through_json(snapshot: Snapshot) -> Snapshot:
    return Snapshot(snapshot.tensors, json.loads(json.dumps(snapshot.metadata)))


@pytest.mark.parametrize(
    ("env_id", "steps"), [("Ant-v4", 130), ("Humanoid-v4", 60), ("Hopper-v4", 0), ("Pendulum-v1", 450)]
)
def test_restored_environments_go_on_to_the_bit(env_id: str, steps: int) -> None:
    """In the first episode and in later ones; random actions end Humanoid's within about 25 steps."""
    of = spec_of(env_id)
    generator = np.random.default_rng(0)

    def action() -> np.ndarray:
        return generator.uniform(of.action_low, of.action_high, (2, 2, of.act_dim)).astype(np.float32)

    envs = SyncSeedEnvs(lambda: make_env(env_id), of, [3, 8], 2)
    envs.reset()
    for _ in range(steps):
        envs.step(action())
    other = SyncSeedEnvs(lambda: make_env(env_id), of, [3, 8], 2)
    for i in range(2):
        other.restore(i, through_json(envs.snapshot(i)))
    assert np.array_equal(other.obs, envs.obs)
    for _ in range(120):
        move = action()
        first, second = envs.step(move), other.step(move)
        assert np.array_equal(first.next_obs, second.next_obs)
        assert np.array_equal(first.reward, second.reward)
        assert np.array_equal(first.terminated, second.terminated)
        assert first.final_obs.keys() == second.final_obs.keys()
    assert envs.pop_episodes(1) == other.pop_episodes(1)


def test_an_environment_that_does_not_repeat_itself_is_refused() -> None:
    class Moody(Count):
        def _obs(self) -> Any:
            return super()._obs() + np.random.rand()

    envs, other = (SyncSeedEnvs(Moody, SPEC, [0], 1) for _ in range(2))
    envs.reset()
    envs.step(np.zeros((1, 1, 1), np.float32))
    with pytest.raises(RuntimeError, match="Count-v0 does not repeat itself"):
        other.restore(0, envs.snapshot(0))


@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_a_restored_on_policy_agent_goes_on_to_the_bit(algo: str) -> None:
    of = spec()
    agent, other = (make_on_policy(algo, of, [1, 2], qat=True, hidden="[8]") for _ in range(2))
    draw, again = rollouts(of, [1, 2], 64, 2), rollouts(of, [1, 2], 64, 2)
    for _ in range(2):
        agent.update(draw(agent))
        again(other)
    for i in range(2):
        other.restore(i, through_json(agent.snapshot(i)))
    agent.update(draw(agent))
    other.update(again(other))
    for name, tensor in agent.state(1).items():
        assert torch.equal(tensor, other.state(1)[name]), name


TRAININGS = list(itertools.product(ALGORITHMS, ["", "+compress=qat", f"+compress=qat {FEW_BITS}"]))
# An algorithm of each loop stands for all.
QUICK_QAT = [("sac", "+compress=qat"), ("ppo", "+compress=qat"), ("trpo", f"+compress=qat {FEW_BITS}")]


@pytest.mark.usefixtures("_empty")
@pytest.mark.parametrize(
    ("algo", "qat"),
    [
        pytest.param(algo, qat, marks=[pytest.mark.slow] if qat and (algo, qat) not in QUICK_QAT else [])
        for algo, qat in TRAININGS
    ],
)
def test_a_stopped_training_ends_as_one_never_stopped(algo: str, qat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice: after the checkpoint of step 200, in the warm-up, and after that of 800; in small segments."""
    monkeypatch.setattr("rlc.runs.checkpoint.SEGMENT_ROWS", 50)
    whole, parts = job(algo, f"study=whole {qat}"), job(algo, f"study=parts {qat}")
    run_job(whole)
    for step in (390, 950):
        run_until(step, parts, monkeypatch)
        assert not Run(parts, 4).finished()
        assert (Run(parts, 4).path / "checkpoint").exists()
    run_job(parts)
    for seed in (4, 5):
        one, other = Run(whole, seed), Run(parts, seed)
        assert other.finished()
        assert weights(one.path) == weights(other.path)
        assert not (other.path / "checkpoint").exists()
        assert "goes on from the checkpoint of step 8" in (other.path / "run.log").read_text()
        assert metrics(one.path) == metrics(other.path)


def metrics(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name != "charts/SPS"} for row in rows]


@pytest.mark.usefixtures("_empty")
def test_seeds_of_a_pack_that_stopped_at_different_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lost its newest checkpoint, one has none: each goes on from its own, and ends the same."""
    whole, parts = job("sac", "study=whole", "[4,5,6]"), job("sac", "study=parts", "[4,5,6]")
    run_job(whole)
    run_until(900, parts, monkeypatch)
    folders = [Run(parts, seed).path / "checkpoint" for seed in (4, 5, 6)]
    (folders[0] / "state-800.safetensors").write_bytes(b"torn")
    for path in folders[1].glob("manifest-*"):
        path.unlink()
    run_job(parts)
    for seed in (4, 5, 6):
        assert weights(Run(whole, seed).path) == weights(Run(parts, seed).path)


def saved_twice(folder: Path, rows: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    replay = ReplayBuffer(SPEC, [0], 1, 10_000_000, 0.9, torch.device("cpu"))
    for step in (1, 2, 3):
        replay.num_added = step * rows
        checkpoints.save(step, Snapshot({"a": torch.full((2,), step)}, {"n": step}), replay, 0)
    return checkpoints


def test_only_the_two_newest_states_are_kept_and_segments_are_written_once(tmp_path: Path) -> None:
    saved_twice(tmp_path, 10_000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [n for n in names if n.startswith("manifest")] == ["manifest-2.json", "manifest-3.json"]
    assert [n for n in names if n.startswith("state")] == ["state-2.safetensors", "state-3.safetensors"]
    assert [n for n in names if n.startswith("replay")] == [f"replay-{k:010d}.npy" for k in (10_000, 20_000, 30_000)]
    assert KEPT == 2


@pytest.mark.parametrize("damage", ["state-3.safetensors", "manifest-3.json", "replay-0000030000.npy"])
@pytest.mark.parametrize("how", ["torn", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = saved_twice(tmp_path, 10_000)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 3
    path = tmp_path / damage
    path.write_bytes(path.read_bytes()[:20]) if how == "torn" else path.unlink()
    saved = checkpoints.newest()
    assert saved is not None
    assert saved.step == 2
    assert saved.snapshot.metadata == {"n": 2}
    said = "" if (damage, how) == ("manifest-3.json", "gone") else "manifest-3.json: damaged checkpoint left out"
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("manifest-*")] == ["manifest-2.json"]


def test_no_valid_checkpoint_is_none(tmp_path: Path) -> None:
    checkpoints = saved_twice(tmp_path, 5)
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"")
    assert checkpoints.newest() is None
    assert Checkpoints(tmp_path / "nowhere").newest() is None


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    """A process killed by the kernel, and the same command again."""
    line = "+algo=ddpg env=humanoid seed=1 total_steps=900 checkpoint_every=100 eval.episodes=1 eval.evaluations=1"
    small = "wandb.mode=disabled algo.hidden=[16] algo.learning_starts=200 algo.batch_size=16"
    command = [sys.executable, "-m", "rlc.train", *line.split(), *small.split()]
    subprocess.run([*command, "study=whole"], cwd=tmp_path, check=True, capture_output=True)
    with subprocess.Popen([*command, "study=parts"], cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("outputs/parts/**/manifest-[3-9]00.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    subprocess.run([*command, "study=parts"], cwd=tmp_path, check=True, capture_output=True)
    (one,), (other,) = (list(tmp_path.glob(f"outputs/{study}/**/seed1")) for study in ("whole", "parts"))
    assert weights(one) == weights(other)
    assert "goes on from the checkpoint" in (other / "run.log").read_text()
