"""How far a grid is: python -m rlc.status study=default, or with the words of rlc.train for the missing runs too."""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from rich import box
from rich.table import Column, Table

from rlc.cli import only, positional, run_command
from rlc.config.plan import make_plan
from rlc.messages import counted
from rlc.packing.restore import unpack_own
from rlc.reporting.console import print_table
from rlc.runs.find import list_runs
from rlc.runs.run import runs_of
from rlc.runs.state import State, check_independent_seeds, state_of
from rlc.runs.stored import OUTPUTS, StoredRun
from trainers.errors import UserError

NOT_BEGUN = "not begun"


def status(arguments: list[str]) -> None:
    """Print the state of the runs of a study, or of exactly those that the arguments of rlc.train stand for."""
    as_json = "--json" in arguments
    rest = [argument for argument in arguments if argument != "--json"]
    if len(rest) == 1:
        rest = positional(rest, "study")
    if all(argument.startswith("study=") for argument in rest):
        study = only(rest, ("study",), required=()).get("study", "default")
        unpack_own(study)
        runs: Sequence[StoredRun] = list_runs(study)
        if not runs:
            raise UserError(f"study={study}: there is no run in {OUTPUTS / study}; train one, or name another study")
    else:
        jobs = make_plan(rest).jobs
        for study in sorted({job.settings.study for job in jobs}):
            unpack_own(study)
        runs = list(itertools.chain.from_iterable(runs_of(job) for job in jobs))
    states = [state_of(run) for run in runs]
    if as_json:
        print(json.dumps([asdict(state) for state in states], indent=1))
    else:
        _show(runs, states)
    check_independent_seeds(runs)


def _show(runs: Sequence[StoredRun], states: Sequence[State]) -> None:
    table = Table(Column("run", no_wrap=True), "state", box=box.SIMPLE)
    for header in ("return", "step", "heartbeat", "left"):
        table.add_column(header, justify="right")
    table.add_column("error")
    for run, state in zip(runs, states, strict=True):
        result = run.result() if state.state == "done" else None
        score = "" if result is None else f"{result.return_mean:.1f}"
        name = f"{run.settings.algo.name} {run.settings.env.id} {run.words} seed {run.seed}"
        shown = NOT_BEGUN if state.state == "missing" else state.state
        age = "" if state.heartbeat_age_s is None else f"{state.heartbeat_age_s:.0f} s ago"
        left = "" if state.eta_s is None else str(timedelta(seconds=round(state.eta_s)))
        steps = f"{state.step}/{state.total_steps}" if state.total_steps else ""
        table.add_row(name, shown, score, steps, age, left, state.error or "")
    print_table(table)
    counts = Counter(state.state for state in states)
    print(
        f"{counted(len(states), 'run')}:",
        ", ".join(f"{count} {NOT_BEGUN if name == 'missing' else name}" for name, count in sorted(counts.items())),
    )


if __name__ == "__main__":
    run_command(status)
