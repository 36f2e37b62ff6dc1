"""The same code on a CUDA device: close to the CPU, and seeds in lockstep close to seeds alone."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rlc.config.plan import make_plan
from rlc.pipeline.build import build_agent
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import assert_a_stop_changes_nothing, batches, job, make_sac, spec
from trainers.acceleration.cuda_graphs import CudaGraphUpdate, UpdateDraws
from trainers.actor_critic import NoiseBuffer
from trainers.data.device_replay import DeviceReplayBuffer
from trainers.envs.seed_envs import Step
from trainers.nn.actor_fn import CudaDelayedActor, DelayedActor
from trainers.nn.stacked import StackedMLP

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def trained(seeds: list[int], device: str, qat: bool, updates: int = 30) -> dict[str, torch.Tensor]:
    of = spec(17, 6)
    agent = make_sac(of, seeds, qat, device, hidden=[256, 256], alpha="auto")
    draw = batches(of, seeds, 256, device)
    for _ in range(updates):
        agent.update(draw())
    return agent.state(seeds.index(1))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_alone_and_lockstep_agree_with_a_seed_on_the_gpu(device: str) -> None:
    reference, other = trained([1], device, False), trained([4, 1, 2], "cuda", False)
    for name, tensor in reference.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("algo", ["ddpg", "td3", "sac"])
@pytest.mark.parametrize("qat", [False, True])
def test_a_cuda_graph_of_an_update_is_the_update(algo: str, qat: bool) -> None:
    of, seeds = spec(17, 6), [4, 1, 2]
    settings = make_plan([f"+algo={algo}", f"+compress={'qat' if qat else 'fp32'}"]).jobs[0].settings
    device = torch.device("cuda")
    plain, recorded = (build_agent(settings.algo, settings.compress, of, seeds, device) for _ in range(2))
    replay = DeviceReplayBuffer(of, seeds, 1, 1000, 0.99, device)
    replay.start(np.zeros((3, 1, 17), np.float32))
    fill(replay, 40)
    update = CudaGraphUpdate(recorded, replay, 256)
    draws = UpdateDraws(seeds, 256, plain.NOISE_DRAWS, of.act_dim, device)
    for _ in range(12):
        draws.advance()
        places, noise = draws.read()
        plain.noise_buffer = NoiseBuffer(noise)
        plain.update(replay.sample_drawn(places))  # type: ignore[attr-defined]
        update()
        fill(replay, 1)
    assert plain.updates == recorded.updates
    for name, tensor in plain.state(1).items():
        torch.testing.assert_close(tensor, recorded.state(1)[name], rtol=1e-3, atol=1e-4)


def fill(replay: DeviceReplayBuffer, steps: int) -> None:
    """Add random transitions."""
    generator = np.random.default_rng(replay.num_added)
    for _ in range(steps):
        next_obs = generator.standard_normal((3, 1, 17)).astype(np.float32)
        action = generator.uniform(-0.4, 0.4, (3, 1, 6)).astype(np.float32)
        ended = generator.random((3, 1)) < 0.1
        replay.add(action, Step(next_obs, generator.random((3, 1)).astype(np.float32), ended, {}))


def test_delayed_acting_on_the_gpu_is_that_of_the_cpu() -> None:
    streams = [torch.Generator().manual_seed(k) for k in range(3)]
    actor = StackedMLP((17, 64, 6), "relu", streams).to("cuda")
    actor.flatten()
    on_gpu, on_cpu = CudaDelayedActor(actor), DelayedActor(copy.deepcopy(actor).cpu())
    generator = np.random.default_rng(0)
    for _ in range(6):
        obs = generator.standard_normal((3, 1, 17)).astype(np.float32)
        np.testing.assert_allclose(on_gpu(obs), on_cpu(obs), rtol=1e-4, atol=1e-5)
        change = torch.randn(actor.flat.shape)
        actor.flat.add_(change.to("cuda"))
        on_gpu.publish()
        for target, source in zip(on_cpu.pairs[on_cpu._acting], actor.parameters(), strict=True):
            target[0].copy_(source)
        on_cpu.published += 1


def test_qat_ranges_on_the_gpu_are_those_of_the_cpu() -> None:
    cpu, gpu = trained([1], "cpu", True, updates=3), trained([1], "cuda", True, updates=3)
    for name in ("running_mean", "running_var", "running_lo", "running_hi", "batches"):
        key = f"actor.layers.0.{name}"
        torch.testing.assert_close(cpu[key], gpu[key], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("overlap", ["overlap=false", "overlap=true env_workers=2"])
def test_a_job_on_the_gpu(overlap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (
        "+algo=sac +compress=qat env=hopper seed=[0,1] device=cuda total_steps=1500"
        " algo.learning_starts=1000 eval.episodes=1 eval.evaluations=2 wandb.mode=disabled"
    )
    (job,) = make_plan(f"{arguments} {overlap}".split()).jobs
    (again,) = make_plan(f"{arguments} {overlap} study=again".split()).jobs
    for one in (job, again):
        run_job(one)
    for seed in (0, 1):
        run = Run(job, seed)
        assert run.finished()
        repeated = Run(again, seed).finished_result()
        assert run.finished_result().final_weights_sha256 == repeated.final_weights_sha256
        assert json.loads((run.artifact / "policy.json").read_text())["kernels"].count("QGemm") == 3


@pytest.mark.parametrize("more", ["", "overlap=true env_workers=2"])
def test_a_stopped_training_on_the_gpu_ends_as_one_never_stopped(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, parts = (job("sac", f"study={study} device=cuda {more}") for study in ("whole", "parts"))
    assert_a_stop_changes_nothing(whole, parts, monkeypatch)
