"""What a command line of rlc.train stands for, shown before anything is done."""

from collections.abc import Sequence

from rich import box
from rich.table import Column, Table

from rlc.grid.estimate import seconds
from rlc.reporting.screen import print_table
from rlc.runs.run import Run


def show_plan(runs: Sequence[Run], left: Sequence[Run]) -> None:
    """A line for each run: its directory, what is to be done there, and how long one core takes for it."""
    waiting = {run.path for run in left}
    table = Table(Column("directory", overflow="fold"), "to do", Column("core-hours", justify="right"), box=box.SIMPLE)
    for run in runs:
        if run.path not in waiting:
            table.add_row(str(run.path), "nothing, it is finished", "")
            continue
        known = seconds(run.settings)
        work = "train" if run.settings.training_steps else "compress"
        table.add_row(str(run.path), work, "unknown" if known is None else f"{known / 3600:.2g}")
    print_table(table)
