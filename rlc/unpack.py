"""Make run directories of packs: python -m rlc.unpack from=<folder>[,<folder>...] [study=<name>]"""

from collections.abc import Iterable
from pathlib import Path

from rlc.cli import given_path, only, positional, run_command
from rlc.messages import counted, warn
from rlc.packing.packs import PackedRun, read_pack, same_outcome
from rlc.packing.restore import lend_measurements, restore
from rlc.runs.files import OUTPUTS
from rlc.runs.find import list_runs
from rlc.runs.state import check_independent_seeds
from rlc.runs.stored import load_run
from trainers.errors import UserError


def unpack(arguments: list[str]) -> None:
    """Make directories of all runs of the packs that have none.

    Raises UserError, before anything is written, for packs that are damaged, or do not mix with each other or with
    the run directories that are there.
    """
    values = only(positional(arguments, "from"), ("from", "study"), required=("from",))
    packed: list[PackedRun] = []
    for folder in values["from"].split(","):
        packed += read_pack(given_path(folder), values.get("study"))
    runs = _joined(packed)
    studies = sorted({run.settings.study for run in runs})
    if len(studies) > 1:
        raise UserError(f"from={values['from']}: of several studies, {', '.join(studies)}: add study=<name>")
    (study,) = studies
    here = [run for run in runs if run.path.exists()]
    missing = [run for run in runs if not run.path.exists()]
    unfinished = [run for run in here if not _finished_here(run)]
    check_independent_seeds([*missing, *list_runs(study)])
    count = restore(missing, study)
    lend_measurements(here)
    for run in unfinished:
        warn(f"{run.path} stays as it is: it is not finished; without it, the run would come from {run.file}")
    print(f"{OUTPUTS / study}: {counted(count, 'run')} from {values['from']}, {len(here)} were there")


def _joined(runs: Iterable[PackedRun]) -> list[PackedRun]:
    """Every run once. Raises UserError where two packs hold different runs of one place, or results of one run."""
    joined: dict[Path, PackedRun] = {}
    for run in runs:
        other = joined.get(run.path)
        if other is None:
            joined[run.path] = run
            continue
        if other.identity != run.identity:
            raise UserError(f"{other.file} and {run.file}: {run.name} has different settings in them")
        if not same_outcome(other.result(), run.result()):
            raise UserError(f"{other.file} and {run.file}: {run.name} has different results in them: leave one out")
        joined[run.path] = other.completed(run)
    return list(joined.values())


def _finished_here(run: PackedRun) -> bool:
    """Whether the directory of a run is finished. Raises UserError where it holds another one, or other results."""
    here = load_run(run.path)
    if here.identity != run.identity:
        raise UserError(f"{run.path} and {run.file}: different settings: choose another study=<name>")
    finished = here.finished()
    if finished and not same_outcome(here.result(), run.result()):
        raise UserError(
            f"{run.path} and {run.file}: different results of one seed: move the directory away, or choose another "
            "study=<name>"
        )
    return finished


if __name__ == "__main__":
    run_command(unpack)
