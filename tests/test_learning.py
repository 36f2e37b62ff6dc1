"""SAC as configured solves a small task, in float and with QAT, through the deployed int8 file."""

from pathlib import Path

import pytest

from rlc.jobs import run_job
from rlc.plan import make_plan
from rlc.runs import Run

# Random actions score about -1200; a good policy -150.
PENDULUM_SOLVED = -250.0


@pytest.mark.slow
@pytest.mark.parametrize("changes", ["", "+compress=qat", "algo.alpha=auto", "+compress=ptdq"])
def test_sac_solves_pendulum(changes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "+algo=sac env.id=Pendulum-v1 total_steps=6000 algo.learning_starts=1000 wandb.mode=disabled"
    (job,) = make_plan([*arguments.split(), *changes.split()]).jobs
    run_job(job)
    result = Run(job, 0).result()
    assert result is not None
    assert result["return_mean"] > PENDULUM_SOLVED
    assert result["random_return_mean"] < -800
