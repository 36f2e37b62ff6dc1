"""The paper's tables and figures from the runs of a study: python -m rlc.report study=default

Writes outputs/<study>/report/: tables as Markdown, LaTeX and CSV, figures as PNG and SVG, and one page, index.html.
"""

import base64
import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from tabulate import tabulate

from compression.files import write_atomic
from rlc.arguments import configured, run_command
from rlc.findings import Finding, findings
from rlc.plan import CONF
from rlc.published import DATA
from rlc.report_figures import figures
from rlc.report_tables import ReportTable, costs, table1, tables, tidy
from rlc.runs import OUTPUTS, RunDirectory
from rlc.settings import parse_report
from rlc.study import Study, chosen_runs
from rlc.table import print_table
from rlc.tracking import log_tables


def report(arguments: list[str]) -> None:
    """Write the report of the runs that the arguments choose. Raises UserError for runs that do not mix."""
    settings = parse_report(configured(arguments, CONF / "report.yaml"))
    runs = chosen_runs(settings)
    study, as_published = (Study(run for run in runs if run.settings.protocol == name) for name in ("ours", "paper"))
    shown = tables(study)
    for table in (table1(as_published), costs(as_published)) if as_published.runs else ():
        title = f"{table.title}: by the paper's protocol"
        shown.append(replace(table, name=f"{table.name}_paper_protocol", title=title))
    claims = findings(study)
    shown.append(as_table(claims))
    folder = OUTPUTS / settings.study / "report"
    folder.mkdir(exist_ok=True)
    for table in shown:
        write_table(folder, table)
        show(table)
    cells = [*tidy(study), *tidy(as_published)]
    write_atomic(folder / "cells.csv", _csv(list(cells[0]), [list(row.values()) for row in cells]).encode())
    pictures = [(caption, write_figure(folder, name, drawn)) for name, caption, drawn in figures(study)]
    made = provenance(runs)
    page = render(settings.study, made, runs, shown, pictures, folder)
    write_atomic(folder / "index.html", page.encode())
    log_tables(folder, settings.study, settings.wandb, {table.name: (table.headers, table.rows) for table in shown})
    print(f"{folder / 'index.html'}: {len(runs)} runs; {made}")


def as_table(claims: Sequence[Finding]) -> ReportTable:
    """The findings as a table."""
    rows = [[finding.claim, finding.verdict, finding.evidence, finding.rule] for finding in claims]
    notes = [
        "holds: the 95 % bootstrap interval lies wholly on the claim's side; does not hold: wholly on the other side; "
        "not enough runs: neither, or fewer than 2 tasks. Left out: seeds whose fp32 policy is no better than random "
        "actions, and cells of fewer than 3 seeds."
    ]
    return ReportTable("findings", "The paper's findings", ["claim", "verdict", "evidence", "rule"], rows, notes)


def write_table(folder: Path, table: ReportTable) -> None:
    """The table as .md, .tex and .csv."""
    notes = "\n\n".join(table.notes)
    markdown = tabulate(table.rows, table.headers, tablefmt="github", disable_numparse=True)
    latex = tabulate(table.rows, table.headers, tablefmt="latex_booktabs", disable_numparse=True)
    comments = "\n".join(f"% {line}" for line in (table.title, *table.notes))
    for suffix, text in (
        ("md", f"**{table.title}**\n\n{markdown}\n\n{notes}\n"),
        ("tex", f"{comments}\n{latex}\n"),
        ("csv", _csv(table.headers, table.rows)),
    ):
        write_atomic(folder / f"{table.name}.{suffix}", text.encode())


def show(table: ReportTable) -> None:
    """The table on the screen."""
    drawn = Table(*table.headers, title=table.title, title_justify="left", box=box.SIMPLE)
    for row in table.rows:
        drawn.add_row(*row)
    print_table(drawn)


def write_figure(folder: Path, name: str, figure: Figure) -> bytes:
    """The figure as .png and .svg; returns the latter."""
    drawn = {}
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150)
        drawn[suffix] = buffer.getvalue()
        write_atomic(folder / f"{name}.{suffix}", drawn[suffix])
    return drawn["svg"]


def render(
    study: str,
    made: str,
    runs: Sequence[RunDirectory],
    shown: Sequence[ReportTable],
    pictures: Sequence[tuple[str, bytes]],
    folder: Path,
) -> str:
    """The page: one file that needs no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    links = [(run.name, os.path.relpath(run.path, folder), _return(run), run.record_only()) for run in runs]
    return environment.from_string((DATA / "page.html").read_text()).render(
        study=study,
        provenance=made,
        tables=shown,
        figures=[(caption, base64.b64encode(svg).decode()) for caption, svg in pictures],
        links=links,
    )


def provenance(runs: Sequence[RunDirectory]) -> str:
    """Which commits the runs were made by, and how many each."""
    made = [(run.result() or {})["provenance"] for run in runs]
    commits = Counter(
        (one["git_commit"] or "unknown")[:7] + (" with changes" if one["git_dirty"] else "") for one in made
    )
    listed = ", ".join(f"{commit} ({count})" for commit, count in commits.most_common())
    return f"made by {'commit' if len(commits) == 1 else 'several commits, which may differ:'} {listed}"


def _return(run: RunDirectory) -> str:
    result: dict[str, Any] = run.result() or {}
    return f"{result['return_mean']:.1f} +- {result['return_std']:.1f}"


def _csv(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([headers, *rows])
    return text.getvalue()


if __name__ == "__main__":
    run_command(report)
