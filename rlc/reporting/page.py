"""What a report writes: tables, figures, one page."""

import base64
import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from tabulate import tabulate

from compression.files import write_atomic
from rlc.datafiles import DATA
from rlc.reporting.tables import ReportTable
from rlc.runs.records import RunResult
from rlc.runs.stored import StoredRun


def write_table(folder: Path, table: ReportTable) -> None:
    """The table as .md, .tex and .csv."""
    notes = "\n\n".join(table.notes)
    markdown = tabulate(table.rows, table.headers, tablefmt="github", disable_numparse=True)
    latex = tabulate(table.rows, table.headers, tablefmt="latex_booktabs", disable_numparse=True)
    comments = "\n".join(f"% {line}" for line in (table.title, *table.notes))
    for suffix, text in (
        ("md", f"**{table.title}**\n\n{markdown}\n\n{notes}\n"),
        ("tex", f"{comments}\n{latex}\n"),
        ("csv", csv_text(table.headers, table.rows)),
    ):
        write_atomic(folder / f"{table.name}.{suffix}", text.encode())


def write_figure(folder: Path, name: str, figure: Figure) -> bytes:
    """The figure as .png and .svg; returns the latter."""
    drawn = {}
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")  # it would be done once more for each file
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150)
        drawn[suffix] = buffer.getvalue()
        write_atomic(folder / f"{name}.{suffix}", drawn[suffix])
    return drawn["svg"]


def render(
    study: str,
    made: str,
    runs: Sequence[StoredRun],
    results: Sequence[RunResult],
    shown: Sequence[ReportTable],
    pictures: Sequence[tuple[str, bytes]],
    folder: Path,
) -> str:
    """The page: one file that needs no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    links = [
        (run.name, os.path.relpath(run.path, folder), _return(result), run.record_only())
        for run, result in zip(runs, results, strict=True)
    ]
    return environment.from_string((DATA / "page.html").read_text()).render(
        study=study,
        provenance=made,
        tables=shown,
        figures=[(caption, base64.b64encode(svg).decode()) for caption, svg in pictures],
        links=links,
    )


def provenance(results: Sequence[RunResult]) -> str:
    """Which commits the runs were made by, and how many each."""
    commits = Counter(_commit(result) for result in results)
    listed = ", ".join(f"{commit} ({count})" for commit, count in commits.most_common())
    return f"made by {'commit' if len(commits) == 1 else 'several commits, which may differ:'} {listed}"


def _commit(result: RunResult) -> str:
    provenance = result.provenance
    commit = (provenance.git_commit or "unknown")[:7]
    return f"{commit} with changes" if provenance.git_dirty else commit


def _return(result: RunResult) -> str:
    return f"{result.return_mean:.1f} +- {result.return_std:.1f}"


def csv_text(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([headers, *rows])
    return text.getvalue()
