"""One job: spec -> agent -> fit -> compress -> evaluate -> record, for every seed in it."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from rlc import build, envs, record
from rlc.fit import fit
from rlc.plan import Job
from rlc.runs import OUTPUTS, Run, finished_fp32_run
from rlc.settings import SettingsError
from rlc.tracking import Tracker


def check_runs(jobs: Sequence[Job]) -> list[Run]:
    """The runs that jobs stand for. Raises SettingsError for what would stop one of them on its way."""
    runs = [Run(job, seed) for job in jobs for seed in job.settings.seed]
    seen = set()
    for run in runs:
        if run.path in seen:
            raise SettingsError(f"seed={run.seed}: asked for twice ({run.name})")
        seen.add(run.path)
    for job in jobs:
        envs.spec_of(job.settings.env.id)
        build.device_of(job.settings.device)
    for run in runs:
        run.check_identity()
    try:
        OUTPUTS.mkdir(exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{OUTPUTS.resolve()} cannot be made: {error.strerror}") from error
    if not os.access(OUTPUTS, os.W_OK):
        raise SettingsError(f"{OUTPUTS.resolve()} is not writable")
    return runs


def run_job(job: Job) -> None:
    """Do what is left of a job. A failure is recorded in its runs and costs no other job."""
    with ExitStack() as locks:
        runs = []
        for seed in sorted(job.settings.seed):
            run = Run(job, seed)
            locks.enter_context(run.locked())
            if job.settings.overwrite:
                run.move_aside()
            if not run.finished():
                runs.append(run)
        if not runs:
            return
        if job.settings.trains:
            _train(runs)
            return
        missing = [run.seed for run in runs if finished_fp32_run(job, run.seed) is None]
        if missing:
            run_job(job.with_fp32().with_seeds(missing))
        for run in runs:
            with _recorded([run]) as (tracker,):
                record.derive(run, tracker)


def _train(runs: Sequence[Run]) -> None:
    with _recorded(runs) as trackers:
        trained = fit(runs, trackers)
        # All agents before the first export: whatever fails from here on, the training is kept.
        for i, run in enumerate(runs):
            record.save_agent(run, trained.agent.state(i))
        for i, (run, tracker) in enumerate(zip(runs, trackers, strict=True)):
            record.record(run, tracker, trained.agent.policy(i), trained.figures(i))


@contextmanager
def _recorded(runs: Sequence[Run]) -> Iterator[list[Tracker]]:
    """Begin runs; an error marks those that are not finished as failed and ends here, Ctrl-C goes on up."""
    for run in runs:
        run.begin()
    trackers = [Tracker(run) for run in runs]
    try:
        yield trackers
    except BaseException as error:
        for run, tracker in zip(runs, trackers, strict=True):
            if not run.finished():
                run.log(traceback.format_exc())
                run.fail(error)
                tracker.finish(failed=True)
        if not isinstance(error, Exception):
            raise
        print(f"rlc.train: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    for tracker in trackers:
        tracker.finish()
