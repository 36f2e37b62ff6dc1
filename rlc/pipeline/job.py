"""One job: train, compress, export, evaluate, record, for every seed in it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from rlc.config.job import Job
from rlc.messages import warn
from rlc.pipeline.compress import compress_run
from rlc.pipeline.record import evaluate_run, export_run, finalize_run
from rlc.pipeline.tracking import Tracker
from rlc.pipeline.training import load_trained, train_runs
from rlc.runs.run import Run
from rlc.runs.stored import algorithm_directory
from trainers.errors import UserError


def run_job(job: Job) -> None:
    """Do what is left of a job. A failure is recorded in its runs and costs no other run or job."""
    try:
        _run_job(job)
    except (OSError, UserError) as error:  # not even the directory of the run can be made, or read
        warn(f"{algorithm_directory(job.settings)}: {type(error).__name__}: {error}")


def _run_job(job: Job) -> None:
    """Hold the runs of a job that are not finished, train the baselines that they lack, then do them."""
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
            missing = [run.seed for run in runs if run.baseline is None]
            if missing:
                run_job(job.with_fp32().with_seeds(missing))
        if runs:
            _do_runs(runs)


def _do_runs(runs: Sequence[Run]) -> None:
    """Train the seeds in lockstep, then finish each by itself: the failure of one costs no other."""
    trackers: list[Tracker] = []
    with _failures_of(runs, trackers):
        for run in runs:
            run.begin()
            trackers.append(Tracker(run))
        train_runs(runs, trackers)
    for run, tracker in zip(runs, trackers, strict=False):
        if run.state() == "running":
            with _failures_of([run], [tracker]):
                made = load_trained(run) if run.settings.trains else compress_run(run, tracker)
                export = export_run(run, made.policy)
                scores = evaluate_run(run)
                finalize_run(run, tracker, made, export, scores)
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
