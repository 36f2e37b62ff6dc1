"""Every algorithm as configured solves a small task, in float and compressed, through the deployed file."""

import statistics
from pathlib import Path

import pytest

from rlc.config.plan import make_plan
from rlc.pipeline.job import run_job
from rlc.runs.run import runs_of

# Random actions score about -1200; a good policy -150.
PENDULUM_SOLVED = -250.0
OFF_POLICY = "total_steps=6000 algo.learning_starts=1000"
# Its actor learns at every second step only, and so few steps leave one seed in four behind: the median of three.
TD3 = f"{OFF_POLICY} seed=[0,1,2]"
# The discount suits an episode of 200 steps whose reward is dense, as in the zoo of Stable-Baselines3.
ON_POLICY = "total_steps=100000 algo.gamma=0.9"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        *(f"+algo={algo} {qat} {OFF_POLICY}" for algo in ("ddpg", "sac") for qat in ("", "+compress=qat")),
        *(f"+algo=td3 {qat} {TD3}" for qat in ("", "+compress=qat")),
        *(f"+algo={algo} {qat} {ON_POLICY}" for algo in ("trpo", "ppo") for qat in ("", "+compress=qat")),
        f"+algo=sac algo.alpha=auto {OFF_POLICY}",
        f"+algo=sac +compress=qat compile=true {OFF_POLICY}",
        f"+algo=sac precision=bf16 compile=true {OFF_POLICY}",
        f"+algo=ppo compile=true {ON_POLICY}",
        f"+algo=sac +compress=ptdq {OFF_POLICY}",
        f"+algo=ppo +compress=ptdq algo.target_kl=0.02 {ON_POLICY}",
    ],
)
def test_pendulum_is_solved(changes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = make_plan(["env.id=Pendulum-v1", "wandb.mode=disabled", *changes.split()]).jobs
    run_job(job)
    results = [run.finished_result() for run in runs_of(job)]
    assert statistics.median(result.return_mean for result in results) > PENDULUM_SOLVED
    assert all(result.random_return_mean < -800 for result in results)
