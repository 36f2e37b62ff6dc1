"""A search with Optuna: trials of some seeds each, through one of Hydra's launchers, best mean return first.

The journal in the search's folder has every trial; the same command goes on with it. A trial is one job or several
(one for each pack of seeds), in the run directories that any other command gives them.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from rlc.config.job import Job
from rlc.config.plan import Plan
from rlc.config.space import Dimension, Search
from rlc.grid.launch import PRUNE_FILE, launch, remove_prune_files
from rlc.messages import warn
from rlc.reporting.search import TrialRow, row_line, write_search
from rlc.runs.files import OUTPUTS
from rlc.runs.identity import LABEL_HASH_LENGTH, folder_name
from rlc.runs.run import Run, runs_of
from rlc.runs.stored import METRICS_FILE, evaluations, read_metrics
from trainers.errors import UserError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

JOURNAL_FILE = "journal.log"
WATCH_SECONDS = 0.5
# Of a trial in the journal: returns of its seeds, and the environment step at which it was stopped.
RETURNS = "returns"
STOPPED_AT = "stopped_at_step"
OVERRIDES = "overrides"


def search_folder(searched: Search) -> Path:
    """Where a search has its journal, its table and its picture."""
    settings = searched.first()[0].settings
    name = f"{searched.algorithms}-{folder_name(settings.env.id)}~{searched.identity[:LABEL_HASH_LENGTH]}"
    return OUTPUTS / settings.study / "search" / name


def search(plan: Plan, folder: Path) -> list[TrialRow]:
    """Draw and run what is left of a search, and write its table and picture; returns all trials.

    Raises UserError where another process runs this search.
    """
    assert plan.search is not None
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another process runs this search: wait for it") from None
    try:
        return _Searcher(plan, plan.search, folder).run()
    finally:
        lock.release()


class _Searcher:
    """One search while it runs."""

    def __init__(self, plan: Plan, searched: Search, folder: Path) -> None:
        self.plan = plan
        self.search = searched
        self.folder = folder
        self.study = _open(folder, searched)
        self.distributions = {one.name: _distribution(one) for one in searched.dimensions}

    def run(self) -> list[TrialRow]:
        self._settle_unfinished()
        failed = 0
        while (left := self.search.settings.n_trials - len(self._settled()) - failed) > 0:
            batch = [self._ask() for _ in range(min(left, self.search.settings.n_jobs))]
            failed += self._do(batch)
            write_search(self.folder, self.rows(), self.search.dimensions)
            if failed and self.plan.jobs[0].settings.fail_fast:
                break
        rows = self.rows()
        write_search(self.folder, rows, self.search.dimensions)
        return rows

    def rows(self) -> list[TrialRow]:
        """All trials that are over, in the order in which they were drawn."""
        names = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
        rows = []
        for trial in self._last_attempts():
            state = names.get(trial.state.name)
            if state is None or (state == "failed" and STOPPED_AT not in trial.user_attrs):
                continue
            kept = trial.user_attrs
            last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
            returns = tuple(kept.get(RETURNS, ()))
            rows.append(
                TrialRow(trial.number, state, dict(trial.params), returns, last, kept.get(STOPPED_AT), kept[OVERRIDES])
            )
        return rows

    def _last_attempts(self) -> "list[FrozenTrial]":
        """All trials, but for those that failed, or were lost, and were begun again."""
        trials = self.study.get_trials(deepcopy=False)
        kept = []
        for trial in trials:
            again = any(later.params == trial.params for later in trials[trial.number + 1 :])
            if trial.state.name != "FAIL" or not again:
                kept.append(trial)
        return kept

    def _settled(self) -> list[Any]:
        return [t for t in self.study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]

    def _settle_unfinished(self) -> None:
        """Put trials that were interrupted, lost or failed in front of the queue, once each."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        trials = self.study.get_trials(deepcopy=False)
        known = [t.params for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        known += [dict(t.system_attrs.get("fixed_params") or {}) for t in trials if t.state == TrialState.WAITING]
        for trial in trials:
            whole = set(trial.params) == set(self.distributions)
            if trial.state == TrialState.FAIL and whole and trial.params not in known:
                self.study.enqueue_trial(trial.params)
                known.append(trial.params)

    def _ask(self) -> "Trial":
        """The next trial. What is drawn depends on the trials before it alone, not on how often the search stopped."""
        drawn = [trial for trial in self._last_attempts() if trial.params]
        self.study.sampler = _sampler(self.search, len(drawn))
        trial = self.study.ask(self.distributions)
        trial.set_user_attr(OVERRIDES, [one.line(trial.params[one.name]) for one in self.search.dimensions])
        return trial

    def _do(self, batch: "Sequence[Trial]") -> int:
        """Run trials and tell the study what came of them; returns how many failed."""
        jobs: list[Job] = []
        watched = []
        for trial in batch:
            of_trial = self.search.make(trial.params)
            jobs += of_trial
            watched.append(_Watched(trial, [run for job in of_trial for run in runs_of(job)]))
        with _pruning(watched):
            try:
                launch(Plan(jobs, self.plan.hydra, multirun=True))
            except Exception as error:  # of a scheduler, for instance: what is finished counts
                warn(f"the launcher ended with {type(error).__name__}: {error}")
        for one in watched:
            self._tell(one)
        numbers = {trial.number for trial in batch}
        ended = [row for row in self.rows() if row.number in numbers]
        for row in ended:
            print(row_line(row), flush=True)
        return sum(row.state == "failed" for row in ended)

    def _tell(self, one: "_Watched") -> None:
        """Tell the study how a trial ended, and its runs where they were stopped."""
        from optuna.trial import TrialState

        one.trial.set_user_attr(STOPPED_AT, one.stopped_at)
        remove_prune_files(one.runs)
        if all(run.finished() for run in one.runs):
            one.report(decide=False)
            returns = [run.finished_result().return_mean for run in one.runs]
            one.trial.set_user_attr(RETURNS, returns)
            state = TrialState.COMPLETE if np.isfinite(returns).all() else TrialState.FAIL
            self.study.tell(one.trial, float(np.mean(returns)) if state == TrialState.COMPLETE else None, state)
        elif one.stopped_at is not None:
            for run in one.runs:
                run.mark_pruned(f"trial {one.trial.number} was below the median at step {one.stopped_at}")
            self.study.tell(one.trial, state=TrialState.PRUNED)
        else:
            self.study.tell(one.trial, state=TrialState.FAIL)
            for run in one.runs:
                if not run.finished():
                    warn(f"failed: {run.name}: {run.error()}")


class _Watched:
    """A trial that runs."""

    def __init__(self, trial: "Trial", runs: Sequence[Run]) -> None:
        self.trial = trial
        self.runs = runs
        self.reported = 0
        self.stopped_at: int | None = None

    def report(self, decide: bool) -> None:
        """Tell the study the evaluations that all seeds have, and stop the trial where they are hopeless."""
        if self.stopped_at is not None:
            return
        curves = [evaluations(read_metrics(run.path / METRICS_FILE)) for run in self.runs]
        common = min(len(curve) for curve in curves)
        for number in range(self.reported, common):
            mean = float(np.mean([curve[number][1] for curve in curves]))
            self.trial.report(mean, number + 1)
            self.reported = number + 1
            if decide and self.trial.should_prune():
                self.stopped_at = curves[0][number][0]
                for run in self.runs:
                    (run.path / PRUNE_FILE).touch()
                return


@contextmanager
def _pruning(watched: Sequence[_Watched]) -> Iterator[None]:
    """Meanwhile, look at the evaluations of trials."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            for one in watched:
                try:
                    one.report(decide=True)
                except (OSError, ValueError) as error:  # a file that is being replaced
                    warn(f"trial {one.trial.number}: {error}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _open(folder: Path, searched: Search) -> "Study":
    """The study in a folder's journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / JOURNAL_FILE
    _repair(path)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if searched.settings.pruner.name == "median":
        wanted = searched.settings.pruner
        # Optuna judges from this step on, and our steps are evaluations, counted from 1.
        pruner = optuna.pruners.MedianPruner(wanted.startup_trials, wanted.warmup_evaluations + 1)
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        storage=storage, study_name=folder.name, direction="maximize", pruner=pruner, load_if_exists=True
    )


def _repair(path: Path) -> None:
    """Take away what a process that was killed has left: half a line, and Optuna's lock. The search's lock is held."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _sampler(searched: Search, drawn: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    wanted = searched.settings.sampler
    seed = wanted.seed + drawn
    if wanted.name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(n_startup_trials=wanted.startup_trials, seed=seed)


def _distribution(one: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.values:
        return CategoricalDistribution(one.values)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)
