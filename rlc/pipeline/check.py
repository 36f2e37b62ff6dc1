"""What would stop a job on its way, found before anything is run."""

import os
from collections.abc import Sequence

from rlc.config.decide import check_compile
from rlc.config.job import Job
from rlc.pipeline import build
from rlc.runs.files import OUTPUTS
from rlc.runs.run import Run, runs_of
from trainers.errors import UserError


def check_runs(jobs: Sequence[Job], *, writes: bool = True) -> list[Run]:
    """The runs that jobs stand for, to be written or only looked at. Raises UserError for what would stop one."""
    runs = []
    for job in jobs:
        runs += runs_of(job)
    _check_seeds(runs)
    for job in jobs:
        job.settings.env.spec()
        build.check_precision(job.settings.precision, build.device_of(job.settings.device))
        check_compile(job.asked)
    for run in runs:
        if not run.settings.overwrite:
            run.check_identity()
        if not run.settings.trains and run.baseline is None:
            Run(run.job.with_fp32(), run.seed).check_identity()
    _check_critics(runs)
    if writes:
        _check_outputs()
    return runs


def _check_seeds(runs: Sequence[Run]) -> None:
    seen = set()
    for run in runs:
        if run.path in seen:
            raise UserError(f"seed={run.seed}: asked for twice ({run.name}); name it once")
        seen.add(run.path)


def _check_critics(runs: Sequence[Run]) -> None:
    """Raises UserError for a run that is left to train further from an agent without critics."""
    trained_anew = {run.path for run in runs if run.settings.overwrite}
    for run in runs:
        further = run.settings.training_steps > 0 and not run.settings.trains
        if not further or (run.finished() and not run.settings.overwrite):
            continue
        baseline = run.baseline
        if baseline is not None and baseline.path not in trained_anew and baseline.lacks_critics():
            raise UserError(
                f"{run.name}: would train {baseline.path} further, which came from a pack without its critics: "
                "train that run again first, with overwrite=true, or leave this one out"
            )


def _check_outputs() -> None:
    """Raises UserError where runs cannot be written."""
    if OUTPUTS.is_symlink() and not OUTPUTS.exists():
        target = OUTPUTS.readlink()
        raise UserError(f"{OUTPUTS}: is a link to {target}, which is not there: make it, or remove the link")
    remedy = "free it, or start the command in another directory"
    try:
        OUTPUTS.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{OUTPUTS.absolute()}: cannot be made: {error.strerror}; {remedy}") from error
    if not os.access(OUTPUTS, os.W_OK | os.X_OK):
        raise UserError(f"{OUTPUTS.absolute()}: is not writable for you; {remedy}")
