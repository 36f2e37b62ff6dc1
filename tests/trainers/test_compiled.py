"""Compiled updates: the mathematics of the eager ones, and the same bits in a pack, alone and after a stop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlc.config import decide
from rlc.config.job import warn_without_compiler
from rlc.config.plan import make_plan
from rlc.pipeline.check import check_runs
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import FEW_BITS, batches, job, make_agent, rollouts, run_until, spec, weights
from trainers.acceleration.compiled import CompiledStep, CompiledUpdate
from trainers.errors import UserError
from trainers.ppo import PPO

SETTINGS: dict[tuple[str, bool | str], dict[str, Any]] = {
    ("sac", True): {"alpha": "auto"},
    ("ppo", True): {"lr_decay_steps": 1_000_000},
    ("ppo", False): {"target_kl": 1e-3},
}
SLOW = [
    ("ddpg", True, "float32"),
    ("ddpg", False, "float32"),
    ("td3", False, "bfloat16"),
    ("sac", False, "float32"),
    ("sac", True, "bfloat16"),
]
CASES = [
    ("td3", True, "float32"),
    ("sac", FEW_BITS, "float32"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
]


def small_agent(algo: str, seeds: list[int], qat: bool | str, dtype: torch.dtype) -> Any:
    agent = make_agent(algo, spec(), seeds, qat, hidden="[16]", **SETTINGS.get((algo, qat), {}))
    agent.set_matmul_dtype(dtype)
    return agent


@pytest.mark.parametrize(("algo", "qat", "dtype"), CASES)
def test_a_compiled_update_is_the_update(algo: str, qat: bool | str, dtype: str) -> None:
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
        # At few bits a rounding that falls the other way is a large one.
        atol = 5e-3 if dtype == "bfloat16" or isinstance(qat, str) else 1e-4
        torch.testing.assert_close(tensor, eager.state(1)[name], rtol=1e-3, atol=atol)
    assert torch.equal(eager.update_streams[1].get_state(), alone.update_streams[0].get_state())


@pytest.mark.parametrize(
    ("algo", "qat"),
    [("ppo", False), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("trpo", False), ("ppo", True)))],
)
def test_compiled_minibatches_are_the_minibatches(algo: str, qat: bool) -> None:
    """Also the last one of a pass, which is smaller, at a learning rate that falls, and where the KL limit stops."""
    of, seeds = spec(), [0, 4]
    eager, pack, alone = (small_agent(algo, s, qat, torch.float32) for s in (seeds, seeds, [4]))
    for agent in (pack, alone):
        agent.step = CompiledStep(agent, type(agent).minibatch_step)
    draws = [rollouts(of, s, 50, 2) for s in (seeds, seeds, [4])]
    for steps in (0, 500_000):
        for agent in (eager, pack, alone):
            agent.anneal(steps)
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
    run_until(950, parts, monkeypatch)
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
    with pytest.raises(UserError, match="compile=true: needs a C\\+\\+ compiler"):
        check_runs(make_plan(["+algo=sac", "compile=true"]).jobs)
    assert not list(tmp_path.iterdir())


def test_an_algorithm_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPO, "COMPILES", False)
    with pytest.raises(UserError, match="compile=true: ppo cannot be compiled"):
        decide.check_compile(make_plan(["+algo=ppo", "compile=true"]).jobs[0].asked)
    assert make_plan(["+algo=ppo"]).jobs[0].settings.compile is False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("+algo=sac", True),
        ("+algo=sac total_steps=19_999", False),
        ("+algo=sac total_steps=20_000", True),
        ("+algo=ppo total_steps=63_000", False),
        ("+algo=ppo total_steps=65_000", True),
        ("+algo=trpo", True),
        ("+algo=sac compile=false", False),
        ("+algo=sac device=cuda", False),
        ("+algo=sac +compress=ptsq", False),
    ],
)
def test_auto_compiles_what_is_long_enough_to_pay(arguments: str, expected: bool) -> None:
    assert make_plan(arguments.split()).jobs[0].settings.compile is expected


def test_a_baseline_that_a_derived_job_lacks_is_compiled_like_any_other() -> None:
    derived = make_plan(["+algo=sac", "+compress=ptsq"]).jobs[0]
    baseline = make_plan(["+algo=sac"]).jobs[0]
    assert derived.with_fp32().settings == baseline.settings
    assert derived.with_fp32().auto == baseline.auto


def test_without_a_compiler_auto_says_so_once_and_takes_the_plain_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    plan = make_plan(["+algo=sac", "seed=0,1", "-m", "env=hopper"])
    assert [job.settings.compile for job in plan.jobs] == [False, False]
    warn_without_compiler(plan.jobs)
    warn_without_compiler(make_plan(["+algo=sac", "total_steps=11_000"]).jobs)
    assert capsys.readouterr().err.count("compile=auto: needs a C++ compiler") == 1


def test_compiled_or_not_it_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds otherwise, as another processor does: a study goes on where there is no compiler."""
    monkeypatch.chdir(tmp_path)
    runs = [Run(make_plan(["+algo=sac", f"compile={value}"]).jobs[0], 0) for value in ("true", "false", "auto")]
    assert len({(run.path, run.identity, run.training_identity) for run in runs}) == 1


def test_going_on_in_another_mode_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_until(950, job("ddpg", "compile=true"), monkeypatch)
    run_job(job("ddpg", "compile=false"))
    assert capsys.readouterr().err.count("was made with compile=true: from here on it rounds otherwise") == 2
