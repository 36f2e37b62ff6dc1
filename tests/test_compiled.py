"""Compiled updates: the mathematics of the eager ones, and the same bits in a pack, alone and after a stop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlc import build
from rlc.jobs import check_runs, run_job
from rlc.plan import make_plan
from rlc.runs import Run
from rlc.settings import SettingsError
from tests.conftest import batches, make_agent, rollouts, spec
from tests.test_checkpoint import crash_at, job, weights
from trainers.compiled import CompiledStep, CompiledUpdate
from trainers.gaussian import GaussianActorCritic

SETTINGS = {("sac", True): {"alpha": "auto"}, ("ppo", True): {"lr_decay_steps": 512}}
SLOW = [("ddpg", True, "float32"), ("td3", False, "bfloat16"), ("sac", False, "float32"), ("sac", True, "bfloat16")]
CASES = [
    ("ddpg", False, "float32"),
    ("td3", True, "float32"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
]


def small_agent(algo: str, seeds: list[int], qat: bool, dtype: torch.dtype) -> Any:
    agent = make_agent(algo, spec(), seeds, qat, hidden="[16]", **SETTINGS.get((algo, qat), {}))
    agent.multiply_in(dtype)
    return agent


@pytest.mark.parametrize(("algo", "qat", "dtype"), CASES)
def test_a_compiled_update_is_the_update(algo: str, qat: bool, dtype: str) -> None:
    """But for rounding; and what surrounds it, the random streams and the count of updates, is the same."""
    of, seeds, products = spec(), [0, 4], getattr(torch, dtype)
    eager, pack, alone = (small_agent(algo, s, qat, products) for s in (seeds, seeds, [4]))
    update, single = CompiledUpdate(pack), CompiledUpdate(alone)
    draws = [batches(of, s, 32) for s in (seeds, seeds, [4])]
    for _ in range(6):
        expected, figures, _ = eager.update(draws[0]()), update(draws[1]()), single(draws[2]())
        assert figures.keys() == expected.keys()
        assert eager.updates == pack.updates
    for name, tensor in alone.state(0).items():
        assert torch.equal(tensor, pack.state(1)[name])
        torch.testing.assert_close(tensor, eager.state(1)[name], rtol=1e-3, atol=1e-4 if dtype == "float32" else 5e-3)
    assert torch.equal(eager.update_streams[1].get_state(), alone.update_streams[0].get_state())


@pytest.mark.parametrize(
    ("algo", "qat"), [("trpo", False), ("ppo", True), pytest.param("ppo", False, marks=pytest.mark.slow)]
)
def test_compiled_minibatches_are_the_minibatches(algo: str, qat: bool) -> None:
    """Also the last one of a pass, which is smaller, and at a learning rate that falls."""
    of, seeds = spec(), [0, 4]
    eager, pack, alone = (small_agent(algo, s, qat, torch.float32) for s in (seeds, seeds, [4]))
    for agent in (pack, alone):
        agent.step = CompiledStep(agent, type(agent).on_minibatch)
    draws = [rollouts(of, s, 50, 2) for s in (seeds, seeds, [4])]
    for _ in range(2):
        figures = [agent.update(draw(agent)) for agent, draw in zip((eager, pack, alone), draws, strict=True)]
    assert figures[0].keys() == figures[1].keys()
    for name, tensor in alone.state(0).items():
        assert torch.equal(tensor, pack.state(1)[name])
        torch.testing.assert_close(tensor, eager.state(1)[name], rtol=1e-3, atol=1e-3)


def test_what_is_no_part_of_the_agent_is_not_built_in() -> None:
    agent, constant = make_agent("ddpg", spec(), [0], hidden="[8]"), torch.zeros(1)
    step = CompiledStep(agent, lambda alone, x: (x + constant,))
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(1,\) that is no part of the agent"):
        step(torch.ones(1, 1))


def test_a_compiled_training_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compile_of = {"whole": "true", "parts": "true", "plain": "false"}
    whole, parts, plain = (job("ddpg", f"study={study} compile={on}") for study, on in compile_of.items())
    with monkeypatch.context() as context:
        crash_at(950, context)
        run_job(parts)
    for one in (whole, parts, plain):
        run_job(one)
    for seed in (4, 5):
        expected = weights(Run(whole, seed).path)
        assert weights(Run(parts, seed).path) == expected
        assert weights(Run(plain, seed).path) != expected
        assert "goes on from the checkpoint" in (Run(parts, seed).path / "run.log").read_text()


def test_a_machine_without_a_compiler_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match="compile=true: needs a C\\+\\+ compiler"):
        check_runs(make_plan(["+algo=sac", "compile=true"]).jobs)
    assert not list(tmp_path.iterdir())


def test_an_algorithm_with_nothing_to_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.AGENTS, "ppo", GaussianActorCritic)
    with pytest.raises(SettingsError, match="compile=true: ppo has no step"):
        build.check_compile("ppo")
