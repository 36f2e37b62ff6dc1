"""The same code on a CUDA device: close to the CPU, and seeds in lockstep close to seeds alone."""

import json
from pathlib import Path

import pytest
import torch

from rlc.config.plan import make_plan
from rlc.pipeline.build import build_agent
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import batches, make_sac, spec
from trainers.acceleration.cuda_graphs import CudaGraphUpdate

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
    plain, recorded = (build_agent(settings.algo, settings.compress, of, seeds, torch.device("cuda")) for _ in range(2))
    update, one, other = CudaGraphUpdate(recorded), batches(of, seeds, 256, "cuda"), batches(of, seeds, 256, "cuda")  # type: ignore[arg-type]
    for _ in range(20):
        plain.update(one())  # type: ignore[attr-defined]
        update(other())
    assert plain.updates == recorded.updates
    for name, tensor in plain.state(1).items():
        torch.testing.assert_close(tensor, recorded.state(1)[name], rtol=1e-4, atol=2e-5)


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
