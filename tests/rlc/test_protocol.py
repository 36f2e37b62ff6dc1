"""protocol=paper: the policies, quantisers and scores of the published code, beside ours."""

import functools
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compression.artifact import check_artifact, load_policy
from compression.files import ONNX_FILE
from compression.int8 import ActivationQuantize, StaticQuantLinear
from compression.paper import (
    QATHeadAsPublished,
    prepare_qat_as_published,
    quantize_dynamic_as_published,
    quantize_static_as_published,
)
from compression.runtime import OnnxPolicy, optimized_operators
from rlc.config.plan import make_plan
from rlc.pipeline import paper
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import POLICIES
from trainers.data.rollout import collect_observations
from trainers.envs.make import spec_of
from trainers.errors import UserError
from trainers.nn.normalizer import RunningStatistics
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy, Standardize
from trainers.sac import SACSettings
from trainers.tensors import FloatArray

SMALL = "env=hopper algo.hidden=[16,16] eval.episodes=2 eval.evaluations=1 wandb.mode=disabled seed=1 total_steps=400"
QUICK = {
    "sac": "algo.learning_starts=200 algo.batch_size=16",
    "td3": "algo.learning_starts=200 algo.batch_size=16",
    "ppo": "algo.rollout_steps=200",
    "trpo": "algo.rollout_steps=200",
}


def states(policy: Policy, n: int = 200) -> FloatArray:
    factory = functools.partial(gym.make, policy.spec.env_id)
    return collect_observations(OnnxPolicy.from_policy(policy), factory, policy.spec, 3, n)


def test_sac_loses_its_squash() -> None:
    policy = load_policy(POLICIES / "sac-hopper")
    obs = torch.from_numpy(states(policy))
    raw = paper.deployed(policy, "sac")(obs)
    assert raw.abs().max() > 1.5
    torch.testing.assert_close(raw.tanh(), policy(obs))


def test_trpo_loses_its_clip_and_reads_raw_observations() -> None:
    policy = load_policy(POLICIES / "trpo-halfcheetah")
    obs = torch.from_numpy(states(policy))
    published = paper.deployed(policy, "trpo")
    assert isinstance(published[0], nn.Linear)
    assert isinstance(published[-1], nn.Linear)
    torch.testing.assert_close(published(obs).clamp(-1, 1), policy(obs), rtol=0, atol=1e-3)
    assert published(obs).abs().max() > 1


def test_an_input_that_never_moved_is_not_folded() -> None:
    """Observation 3 stood at 200 in training: its inverse deviation is 10,000, and its weights cancel the bias."""
    policy = load_policy(POLICIES / "trpo-halfcheetah")
    obs = torch.from_numpy(states(policy))
    obs[:, 3] = 200.0
    statistics = policy[0]
    assert isinstance(statistics, Standardize)
    still = RunningStatistics(1, 1)
    still.update(torch.full((1, 100, 1), 200.0))
    statistics.mean[3] = 200.0
    statistics.inverse_std[3] = 1 / still.std().squeeze()
    published = paper.deployed(policy, "trpo")
    torch.testing.assert_close(published(obs).clamp(-1, 1), policy(obs), rtol=0, atol=1e-3)
    first = published[0]
    assert isinstance(first, nn.Linear)
    assert (first.weight[:, 3] == 0).all()
    assert (first.weight[:, [0, 1, 2]] != 0).all()


def test_ppo_leaves_its_statistics_behind() -> None:
    policy = load_policy(POLICIES / "ppo-hopper")
    obs = torch.from_numpy(states(policy))
    published = paper.deployed(policy, "ppo")
    normalized = policy[1](policy[0](obs))
    torch.testing.assert_close(published(normalized).clamp(-1, 1), policy(obs), rtol=0, atol=1e-5)
    with paper.make_env("ppo", spec_of("Hopper-v4")) as env:
        first, _ = env.reset()
        assert np.abs(first).max() < 2  # two observations old: nothing like the statistics of training
        assert np.abs(env.step(np.full(3, 100.0))[0]).max() <= 10


@pytest.mark.parametrize("name", ["sac-hopper", "trpo-halfcheetah", "td3-ant"])
def test_published_quantisers_use_one_scale_per_layer(name: str) -> None:
    algo = name.split("-")[0]
    policy = paper.deployed(load_policy(POLICIES / name), algo)
    obs = states(policy)
    dynamic, dynamic_model = quantize_dynamic_as_published(policy)
    static, static_model = quantize_static_as_published(policy, obs)
    for model in (dynamic_model, static_model):
        values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}
        assert sorted(a.size for n, a in values.items() if n.startswith("weight") and n.endswith("_scale")) == [1] * 3
    assert optimized_operators(dynamic_model).count("DynamicQuantizeMatMul") == 3
    assert optimized_operators(static_model).count("QGemm") == 3
    assert [type(stage) for stage in static].count(ActivationQuantize) == 3
    for torch_policy, model in ((dynamic, dynamic_model), (static, static_model)):
        theirs = np.stack([OnnxPolicy(model)(o) for o in obs])
        ours = torch_policy(torch.from_numpy(obs)).numpy()
        assert np.quantile(np.abs(theirs - ours).max(1), 0.95) < 5e-3


def test_published_qat_has_7_bit_activations_and_int8_outputs() -> None:
    network = StackedMLP([5, 8, 4], "relu", [torch.Generator().manual_seed(0)])
    prepare_qat_as_published(network, heads=2)
    x = torch.randn(1, 64, 5, generator=torch.Generator().manual_seed(1))
    network(x, update_ranges=True)
    head = network.layers[1]
    assert isinstance(head, QATHeadAsPublished)
    mean, log_std = network(x).chunk(2, -1)
    for half, part in enumerate((mean, log_std)):
        low, high = head.output_lo[0, 0, half].clamp(max=0), head.output_hi[0, 0, half].clamp(min=0)
        step = (high - low) / 127
        levels = part / step
        assert (levels - levels.round()).abs().max() < 1e-3
        assert len(levels.round().unique()) <= 128
    cut = network.extract(0, outputs=2)
    assert [type(stage) for stage in cut] == [StaticQuantLinear, nn.ReLU, StaticQuantLinear, ActivationQuantize]
    torch.testing.assert_close(nn.Sequential(*cut)(x[0]), mean[0], rtol=0, atol=2 * step.item())


@pytest.mark.parametrize("algo", ["sac", "ppo", *(pytest.param(a, marks=pytest.mark.slow) for a in ("td3", "trpo"))])
def test_paper_runs_lie_beside_ours(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"+algo={algo} {SMALL} {QUICK[algo]} +compress=fp32,ptdq,ptsq,prune_l1,qat protocol=paper -m"
    jobs = make_plan(command.split()).jobs
    for job in jobs:
        run_job(job)
    ours = Run(jobs[0].with_fp32(), 1)
    assert ours.finished()
    fp32 = {}
    for job in jobs:
        run = Run(job, 1)
        result = run.result()
        assert result is not None, run.error()
        assert run.label.partition("~")[0] == f"{job.settings.compress.label}-paper"
        assert result.protocol == "paper"
        assert check_artifact(run.artifact)["compression"]["protocol"] == "paper"
        fp32[job.settings.compress.method] = result.fp32_return_mean
    assert len(set(fp32.values())) == 1
    own = Run(jobs[0], 1).finished_result().episode_returns
    with paper.make_env(algo, spec_of("Hopper-v4")) as env:
        act = OnnxPolicy(Run(jobs[0], 1).artifact / ONNX_FILE)
        for expected in own:
            obs, _ = env.reset()
            total, done = 0.0, False
            while not done:
                obs, reward, terminated, truncated, _ = env.step(act(np.array(obs, np.float32)))
                total, done = total + float(reward), terminated or truncated
            assert total == pytest.approx(expected)
    qat = next(Run(job, 1) for job in jobs if job.settings.compress.method == "qat")
    assert (qat.path / "metrics.csv").exists()
    assert not (qat.path / "checkpoint").exists()


def test_published_qat_begins_with_the_temperature_and_warmup_of_the_paper() -> None:
    (job,) = make_plan(["+algo=sac", "+compress=qat", "protocol=paper", "env=hopper"]).jobs
    assert not job.settings.trains
    assert job.settings.training_steps == 1_000_000
    algo = paper.second_training(job.settings.algo)
    assert isinstance(algo, SACSettings)
    assert (algo.alpha, algo.initial_alpha, algo.learning_starts) == ("auto", 1.0, 5000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("+compress=prune_ptsq", "compress.method=prune_ptsq: not in the paper; allowed: fp32, ptdq"),
        ("+compress=prune_l1 compress.finetune=distill", "compress.finetune=distill: the paper has none"),
        ("+compress=prune_l1 compress.sparsity.steps=9", "compress.sparsity.steps=9"),
    ],
)
def test_what_the_paper_does_not_have_is_refused(arguments: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_plan(f"+algo=sac env=hopper protocol=paper {arguments}".split())
