"""Train, compress, evaluate and record: python -m rlc.train +algo=sac +compress=qat env=hopper seed=0,1 -m"""

import signal
import sys
from typing import TYPE_CHECKING

from rlc.config.help import ANSWERED, answer
from rlc.messages import counted, of_the_system, raise_at_ctrl_c, warn
from trainers.errors import UserError

if TYPE_CHECKING:
    from rlc.config.plan import Plan
    from rlc.runs.run import Run

DRY_RUN = "--dry-run"


def main() -> None:
    """Plan everything, then run it. Exit code 2: bad input, nothing was run; 1: a run failed; 130: Ctrl-C."""
    raise_at_ctrl_c()
    arguments = sys.argv[1:]
    if any(a.split("=")[0] in ANSWERED for a in arguments):
        try:
            answer(arguments)
        except UserError as error:
            warn(str(error))
            sys.exit(2)
        return
    try:
        sys.exit(plan_and_run(arguments))
    except KeyboardInterrupt:
        warn("interrupted; the same command goes on with what is left")
        sys.exit(130)


def plan_and_run(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    from rlc.config.plan import make_plan
    from rlc.grid.estimate import estimate
    from rlc.grid.preview import show_plan
    from rlc.packing.restore import unpack_own
    from rlc.pipeline.check import check_runs
    from rlc.pipeline.record import backfill_baseline
    from rlc.reporting import console

    dry_run = DRY_RUN in arguments
    try:
        plan = make_plan([argument for argument in arguments if argument != DRY_RUN])
        for study in () if dry_run else sorted({job.settings.study for job in plan.jobs}):
            unpack_own(study)
        runs = check_runs(plan.jobs, writes=not dry_run)
        unfinished = [run for run in runs if not run.finished()]
    except (UserError, OSError) as error:
        warn(of_the_system(error) if isinstance(error, OSError) else str(error))
        return 2
    if plan.search is not None:
        return run_search(plan, dry_run)
    overwrite = any(job.settings.overwrite for job in plan.jobs)
    left = runs if overwrite else unfinished
    costs = f"; {estimate(left)}" if left and (plan.multirun or dry_run) else ""
    done = len(runs) - len(left)
    line = f"{counted(len(plan.jobs), 'job')}, {counted(len(runs), 'run')}, {done} of them finished already{costs}"
    if dry_run:
        show_plan(runs, left)
        print(f"{line}; nothing was done")
        return 0
    print(line, flush=True)
    if left:
        run_left(plan, runs, left)
    finished = [run for run in runs if run.finished()]
    for run in finished:
        backfill_baseline(run)
    console.show(finished)
    for run in runs:
        if run not in finished:
            log = run.path / "run.log"
            warn(f"failed: {run.name}: {run.error()}" + (f"; see {log}" if log.exists() else ""))
    if len(finished) < len(runs):
        return 1
    return follow_up(plan) if plan.follow_ups else 0


def run_left(plan: "Plan", runs: "list[Run]", left: "list[Run]") -> None:
    """Run the jobs of a plan, of which these runs are left."""
    from rlc.config.job import warn_without_compiler
    from rlc.pipeline.job import run_job

    warn_without_compiler(run.job for run in left)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if plan.multirun:
        launch_and_watch(plan, runs)
    else:
        run_job(plan.jobs[0])


def run_search(plan: "Plan", dry_run: bool) -> int:
    """Do what is left of a search, or say what it is; returns the exit code."""
    from rlc.config.job import warn_without_compiler
    from rlc.grid.estimate import estimate
    from rlc.grid.search import search, search_folder
    from rlc.reporting.search import show_search
    from rlc.runs.run import runs_of

    assert plan.search is not None
    folder = search_folder(plan.search)
    trial = [run for job in plan.search.first() for run in runs_of(job)]
    settings = plan.search.settings
    costs = estimate(trial * settings.n_trials)
    line = f"{folder}: {counted(settings.n_trials, 'trial')} of {counted(len(trial), 'seed')}; all of them {costs}"
    if dry_run:
        print(f"{line}; nothing was done")
        return 0
    print(line, flush=True)
    warn_without_compiler(run.job for run in trial)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        rows = search(plan, folder)
    except (UserError, OSError) as error:
        warn(str(error))
        return 2
    show_search(rows, folder)
    return 1 if any(row.state == "failed" for row in rows) else 0


def follow_up(plan: "Plan") -> int:
    """Run the commands that a preset wants on its study when all of it is done; returns the exit code."""
    from rlc.measure import measure
    from rlc.report import report

    commands = {"measure": measure, "report": report}
    for name in plan.follow_ups:
        try:
            commands[name]([f"study={plan.jobs[0].settings.study}"])
        except (UserError, OSError) as error:
            warn(f"{name}: {error}")
            return 1
    return 0


def launch_and_watch(plan: "Plan", runs: "list[Run]") -> None:
    """Run a multirun and show its progress. Launcher errors are printed; run failures are in their status files."""
    from rlc.grid.launch import launch
    from rlc.grid.watch import ProgressMonitor
    from rlc.runs.planned import note_planned

    note_planned(runs)
    with ProgressMonitor(runs):
        try:
            launch(plan)
        except Exception as error:
            warn(f"the launcher ended with {type(error).__name__}: {error}; the same command goes on with what is left")


if __name__ == "__main__":
    main()
