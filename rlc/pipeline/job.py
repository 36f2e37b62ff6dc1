"""One job: spec -> agent -> fit -> compress -> evaluate -> record, for every seed in it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from rlc.config.decide import check_compile
from rlc.config.job import Job
from rlc.messages import warn
from rlc.pipeline import build, record
from rlc.pipeline.tracking import Tracker
from rlc.pipeline.training import fit, untrained_agent
from rlc.runs.find import find_baseline, without_critics
from rlc.runs.run import OUTPUTS, Run, algorithm_directory
from trainers.errors import UserError


def check_runs(jobs: Sequence[Job]) -> list[Run]:
    """The runs that jobs stand for. Raises UserError for what would stop one of them on its way."""
    runs = [Run(job, seed) for job in jobs for seed in job.settings.seed]
    seen = set()
    for run in runs:
        if run.path in seen:
            raise UserError(f"seed={run.seed}: asked for twice ({run.name})")
        seen.add(run.path)
    for job in jobs:
        job.settings.env.spec()
        build.check_precision(job.settings.precision, build.device_of(job.settings.device))
        check_compile(job.asked)
    for run in runs:
        if not run.settings.overwrite:
            run.check_identity()
        if not run.settings.trains and find_baseline(run.job, run.seed) is None:
            Run(run.job.with_fp32(), run.seed).check_identity()
    _check_critics(runs)
    _make_outputs()
    return runs


def _make_outputs() -> None:
    """Raises UserError where runs cannot be written."""
    if OUTPUTS.is_symlink() and not OUTPUTS.exists():
        raise UserError(
            f"{OUTPUTS}: is a link to {OUTPUTS.readlink()}, which is not there: make it, or remove the link"
        )
    remedy = "free it, or start the command in another directory"
    try:
        OUTPUTS.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{OUTPUTS.absolute()}: cannot be made: {error.strerror}; {remedy}") from error
    if not os.access(OUTPUTS, os.W_OK | os.X_OK):
        raise UserError(f"{OUTPUTS.absolute()}: is not writable for you; {remedy}")


def _check_critics(runs: Sequence[Run]) -> None:
    """Raises UserError for a run that is left to train further from an agent without critics."""
    trained_anew = {run.path for run in runs if run.settings.overwrite}
    for run in runs:
        further = run.settings.training_steps > 0 and not run.settings.trains
        if not further or (run.finished() and not run.settings.overwrite):
            continue
        source = find_baseline(run.job, run.seed)
        if source is not None and source not in trained_anew and without_critics(source):
            raise UserError(
                f"{run.name}: would train {source} further, which came from a pack without its critics: "
                "train that run again first, with overwrite=true, or leave this one out"
            )


def run_job(job: Job) -> None:
    """Do what is left of a job. A failure is recorded in its runs and costs no other run or job."""
    try:
        _run_job(job)
    except OSError as error:  # not even the directory of the run can be made
        warn(f"{algorithm_directory(job.settings)}: {type(error).__name__}: {error}")


def _run_job(job: Job) -> None:
    with ExitStack() as locks:
        runs = []
        for seed in sorted(job.settings.seed):
            run = Run(job, seed)
            locks.enter_context(run.lock())
            if job.settings.overwrite:
                run.archive()
            if not run.finished():
                runs.append(run)
        if not job.settings.trains:
            missing = [run.seed for run in runs if find_baseline(job, run.seed) is None]
            if missing:
                run_job(job.with_fp32().with_seeds(missing))
        if runs:
            _run(runs)


def _run(runs: Sequence[Run]) -> None:
    """Train what is not trained yet, in lockstep; then compress, evaluate and record each run by itself."""
    trackers: list[Tracker] = []
    with _failures_of(runs, trackers):
        for run in runs:
            run.begin()
            trackers.append(Tracker(run))
        untrained = [i for i, run in enumerate(runs) if run.settings.trains and not run.trained()]
        saved = {i: runs[i].checkpoints().newest() for i in untrained}
        at = {i: 0 if one is None else one.step for i, one in saved.items()}
        # Seeds of a pack may have stopped at different steps: those at the same step go on in lockstep.
        for step in sorted(set(at.values())):
            pack = [i for i in untrained if at[i] == step]
            mine = [runs[i] for i in pack]
            settings = runs[0].settings
            beginning = [saved.pop(i) for i in pack]
            trained = fit(mine, [trackers[i] for i in pack], untrained_agent(mine), settings, beginning)
            for place, i in enumerate(pack):
                runs[i].save_agent(trained.agent.state(place), trained.figures(place))
    for run, tracker in zip(runs, trackers, strict=False):
        if run.state() == "running":
            with _failures_of([run], [tracker]):
                record.record(run, tracker)
                tracker.finish()


@contextmanager
def _failures_of(runs: Sequence[Run], trackers: Sequence[Tracker]) -> Iterator[None]:
    """An error marks the runs as failed and ends here; Ctrl-C and termination mark them as interrupted and go on up."""
    try:
        yield
    except BaseException as error:
        for run in runs:
            # Where the disk is full nothing can be noted: the error still reaches the terminal.
            with suppress(OSError):
                if run.state() == "running":
                    run.fail(error) if isinstance(error, Exception) else run.interrupt()
        for tracker in trackers:
            tracker.finish(failed=True)
        if not isinstance(error, Exception):
            raise
        warn(f"{', '.join(run.name for run in runs)}: {type(error).__name__}: {error}")
