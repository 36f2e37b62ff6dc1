"""How far a grid is: python -m rlc.status study=default, or with the words of rlc.train for the missing runs too."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta

from rich import box
from rich.table import Column, Table

from rlc.cli import defaults_of, only, positional, run_command
from rlc.datafiles import CONF
from rlc.messages import counted
from rlc.reporting.screen import print_table
from rlc.runs.files import OUTPUTS, PACK
from rlc.runs.index import outlines
from rlc.runs.outline import Outline, read_outline
from rlc.runs.planned import not_begun
from rlc.runs.state import State, check_independent_seeds, state_of
from trainers.errors import UserError

NOT_BEGUN = "not begun"
# With more runs than this, those of one setting that are in the same state share a line.
MOST_LINES = 100


def status(arguments: list[str]) -> None:
    """Print the state of the runs of a study, or of exactly those that the arguments of rlc.train stand for."""
    as_json = "--json" in arguments
    rest = [argument for argument in arguments if argument != "--json"]
    if len(rest) == 1:
        rest = positional(rest, "study")
    if all(argument.startswith("study=") for argument in rest):
        study = only(rest, ("study",), required=()).get("study") or defaults_of(CONF / "status.yaml")["study"]
        _unpack(study)
        runs = [*outlines(study), *not_begun(study)]
        if not runs:
            raise UserError(f"study={study}: there is no run in {OUTPUTS / study}; train one, or name another study")
    else:
        runs = _planned(rest)
    states = [state_of(run) for run in runs]
    if as_json:
        print(json.dumps([asdict(state) for state in states], indent=1))
    else:
        _show(runs, states)
    check_independent_seeds(runs)


def _planned(arguments: Sequence[str]) -> list[Outline]:
    """The runs that arguments of rlc.train stand for."""
    from rlc.config.plan import make_plan
    from rlc.runs.run import runs_of

    jobs = make_plan(arguments).jobs
    for study in sorted({job.settings.study for job in jobs}):
        _unpack(study)
    planned = itertools.chain.from_iterable(runs_of(job) for job in jobs)
    return [read_outline(run.path, run.who) for run in planned]


def _unpack(study: str) -> None:
    """Make run directories of the study's own pack, where it has one."""
    if (OUTPUTS / study / PACK).is_dir():
        from rlc.packing.restore import unpack_own  # imports for seconds

        unpack_own(study)


def _show(runs: Sequence[Outline], states: Sequence[State]) -> None:
    table = Table(Column("run", no_wrap=True), "state", box=box.SIMPLE)
    for header in ("return", "step", "heartbeat", "left"):
        table.add_column(header, justify="right")
    table.add_column("error")
    rows = list(zip(runs, states, strict=True))
    for line in _lines(rows) if len(rows) > MOST_LINES else (_line(run, state) for run, state in rows):
        table.add_row(*line)
    print_table(table)
    counts = Counter(_word(state) for state in states)
    print(f"{counted(len(states), 'run')}:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))


def _lines(rows: Sequence[tuple[Outline, State]]) -> Iterator[list[str]]:
    """A line for each setting and state; what runs, or ended in an error, has a line of its own."""
    groups: dict[tuple[str, ...], list[tuple[Outline, State]]] = defaultdict(list)
    for run, state in rows:
        own = "" if state.state in ("done", "missing") else str(run.path)
        groups[run.who.algo, run.who.env_id, run.who.words, state.state, own].append((run, state))
    for group in groups.values():
        run, state = group[0]
        if len(group) == 1:
            yield _line(run, state)
            continue
        returns = [run.return_mean for run, _ in group if run.return_mean is not None]
        score = f"mean {sum(returns) / len(returns):.1f}" if returns and state.state == "done" else ""
        name = f"{run.who.algo} {run.who.env_id} {run.who.words}, {counted(len(group), 'seed')}"
        yield [name, _word(state), score, "", "", "", ""]


def _line(run: Outline, state: State) -> list[str]:
    """The line of one run."""
    score = "" if run.return_mean is None or state.state != "done" else f"{run.return_mean:.1f}"
    name = f"{run.who.algo} {run.who.env_id} {run.who.words} seed {run.who.seed}"
    age = "" if state.heartbeat_age_s is None else f"{state.heartbeat_age_s:.0f} s ago"
    left = "" if state.eta_s is None else str(timedelta(seconds=round(state.eta_s)))
    steps = f"{state.step}/{state.total_steps}" if state.total_steps else ""
    return [name, _word(state), score, steps, age, left, state.error or ""]


def _word(state: State) -> str:
    return NOT_BEGUN if state.state == "missing" else state.state


if __name__ == "__main__":
    run_command(status)
