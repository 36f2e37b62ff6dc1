"""The paper's tables and figures from the runs of a study: python -m rlc.report study=default

Writes outputs/<study>/report/: tables as Markdown, LaTeX and CSV, figures as PNG and SVG, and one page, index.html;
page=<file> writes the page once more, where its runs are not linked.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.table import Table

from compression.files import write_atomic
from rlc.cli import configured, positional, run_command
from rlc.config.commands import ReportSettings, parse_report
from rlc.datafiles import CONF
from rlc.messages import counted
from rlc.pipeline.tracking import log_tables
from rlc.reporting.figures import pictures
from rlc.reporting.files import csv_text, write_picture, write_table
from rlc.reporting.findings import HOW_DECIDED, Finding, findings
from rlc.reporting.overview import overview
from rlc.reporting.own_findings import own_findings
from rlc.reporting.page import Report, render
from rlc.reporting.paper_tables import table1, table2, table3
from rlc.reporting.published_figures import published_pictures
from rlc.reporting.screen import print_table
from rlc.reporting.sources import machines, provenance
from rlc.reporting.study import Study, chosen_runs, swept, with_default_settings
from rlc.reporting.tables import Note, ReportTable, by_setting, costs, guidance, tidy
from rlc.runs.files import OUTPUTS
from rlc.runs.state import check_independent_seeds
from trainers.errors import UserError


def report(arguments: list[str]) -> None:
    """Write the report of the runs that the arguments choose. Raises UserError for runs that do not mix."""
    settings = parse_report(configured(positional(arguments, "study"), CONF / "report.yaml"))
    extra = _extra_page(settings)
    made = make_report(settings)
    folder = OUTPUTS / settings.study / "report"
    folder.mkdir(exist_ok=True)
    shown = [*made.tables, as_table(made.claims), machines(made.runs)]
    for table in shown:
        write_table(folder, table)
        show(table)
    cells = [*tidy(made.ours), *tidy(made.as_published)]
    if cells:
        write_atomic(folder / "cells.csv", csv_text(list(cells[0]), [list(row.values()) for row in cells]).encode())
    for picture in made.pictures:
        write_picture(folder, picture)
    write_atomic(folder / "index.html", render(made, folder).encode())
    if extra is not None:
        write_atomic(extra, render(made, None).encode())
    log_tables(folder, settings.study, settings.wandb, {table.name: (table.headers, table.rows) for table in shown})
    print(f"{folder / 'index.html'}: {counted(len(made.runs), 'run')}; {provenance(made.runs)}")


def make_report(settings: ReportSettings) -> Report:
    """All that the report of some settings shows. Raises UserError for runs that do not mix."""
    runs = chosen_runs(settings)
    check_independent_seeds(runs)
    sweeps = swept(runs)
    apart = {run.path for run in itertools.chain.from_iterable(sweeps) if not with_default_settings(run)}
    pooled = [run for run in runs if run.path not in apart]
    study = Study(run for run in pooled if run.settings.protocol == "ours")
    as_published = Study(run for run in pooled if run.settings.protocol == "paper")
    shown = [by_setting(sweeps)] if sweeps else []
    shown += [overview(study, as_published), costs(study), guidance(study)]
    if as_published.runs:
        shown.append(_by_the_papers_protocol(costs(as_published)))
    shown += [table1(study), table2(study), table3(study)]
    if as_published.runs:
        shown.append(_by_the_papers_protocol(table1(as_published)))
    return Report(
        study=settings.study,
        runs=runs,
        ours=study,
        as_published=as_published,
        claims=[*findings(study), *own_findings(study, as_published)],
        tables=shown,
        pictures=[*pictures(study, as_published), *published_pictures(study)],
    )


def _by_the_papers_protocol(table: ReportTable) -> ReportTable:
    name = f"{table.name}_paper_protocol"
    note = Note("the fp32 policies that others are compared with were scored by the paper's protocol too.")
    title = f"{table.title}: this study's runs by the paper's protocol"
    return replace(table, name=name, title=title, notes=[*table.notes, note])


def _extra_page(settings: ReportSettings) -> Path | None:
    """Where the page is written once more. Raises UserError for a place that cannot be."""
    if settings.page is None:
        return None
    path = Path(settings.page).expanduser()
    if path.suffix != ".html" or not path.parent.is_dir():
        raise UserError(f"page={settings.page}: allowed: a file that ends in .html, in a folder that exists")
    return path


def as_table(claims: Sequence[Finding]) -> ReportTable:
    """The findings as a table."""
    rows = [
        [finding.claim, "ours" if finding.own else "the paper", finding.verdict, finding.evidence, finding.rule]
        for finding in claims
    ]
    headers = ["claim", "whose", "verdict", "evidence", "rule"]
    return ReportTable("findings", "Claims, and what the data say of them", headers, rows, [Note(HOW_DECIDED)])


def show(table: ReportTable) -> None:
    """The table on the screen."""
    drawn = Table(*table.headers, title=table.title, title_justify="left", box=box.SIMPLE)
    for row in table.rows:
        drawn.add_row(*row)
    print_table(drawn)


if __name__ == "__main__":
    run_command(report)
