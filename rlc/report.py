"""The paper's tables and figures from the runs of a study: python -m rlc.report study=default

Writes outputs/<study>/report/: tables as Markdown, LaTeX and CSV, figures as PNG and SVG, and one page, index.html.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.table import Table

from compression.files import write_atomic
from rlc.cli import configured, positional, run_command
from rlc.config.commands import parse_report
from rlc.config.compose import CONF
from rlc.messages import counted
from rlc.pipeline.tracking import log_tables
from rlc.reporting.figures import figures
from rlc.reporting.findings import Finding, findings
from rlc.reporting.page import csv_text, provenance, render, write_figure, write_table
from rlc.reporting.paper_tables import table1, tables
from rlc.reporting.screen import print_table
from rlc.reporting.study import Study, chosen_runs, swept, with_default_settings
from rlc.reporting.tables import ReportTable, by_setting, costs, tidy
from rlc.runs.state import check_independent_seeds
from rlc.runs.stored import OUTPUTS


def report(arguments: list[str]) -> None:
    """Write the report of the runs that the arguments choose. Raises UserError for runs that do not mix."""
    settings = parse_report(configured(positional(arguments, "study"), CONF / "report.yaml"))
    runs = chosen_runs(settings)
    sweeps = swept(runs)
    apart = {run.path for run in itertools.chain.from_iterable(sweeps) if not with_default_settings(run)}
    pooled = [run for run in runs if run.path not in apart]
    study = Study(run for run in pooled if run.settings.protocol == "ours")
    as_published = Study(run for run in pooled if run.settings.protocol == "paper")
    check_independent_seeds(runs)
    shown = [by_setting(sweeps)] if sweeps else []
    shown += tables(study) if pooled else []
    for table in (table1(as_published), costs(as_published)) if as_published.runs else ():
        title = f"{table.title}: by the paper's protocol"
        shown.append(replace(table, name=f"{table.name}_paper_protocol", title=title))
    if pooled:
        shown.append(as_table(findings(study)))
    folder = OUTPUTS / settings.study / "report"
    folder.mkdir(exist_ok=True)
    for table in shown:
        write_table(folder, table)
        show(table)
    cells = [*tidy(study), *tidy(as_published)]
    if cells:
        write_atomic(folder / "cells.csv", csv_text(list(cells[0]), [list(row.values()) for row in cells]).encode())
    drawings = figures(study) if pooled else ()
    pictures = [(caption, write_figure(folder, name, drawn)) for name, caption, drawn in drawings]
    results = [run.finished_result() for run in runs]
    made = provenance(results)
    page = render(settings.study, made, runs, results, shown, pictures, folder)
    write_atomic(folder / "index.html", page.encode())
    log_tables(folder, settings.study, settings.wandb, {table.name: (table.headers, table.rows) for table in shown})
    print(f"{folder / 'index.html'}: {counted(len(runs), 'run')}; {made}")


def as_table(claims: Sequence[Finding]) -> ReportTable:
    """The findings as a table."""
    rows = [[finding.claim, finding.verdict, finding.evidence, finding.rule] for finding in claims]
    notes = [
        "holds: the 95 % bootstrap interval lies wholly on the claim's side; does not hold: wholly on the other side; "
        "not enough runs: neither, or fewer than 2 tasks. Left out: seeds whose fp32 policy is no better than random "
        "actions, and cells of fewer than 3 seeds."
    ]
    return ReportTable("findings", "The paper's findings", ["claim", "verdict", "evidence", "rule"], rows, notes)


def show(table: ReportTable) -> None:
    """The table on the screen."""
    drawn = Table(*table.headers, title=table.title, title_justify="left", box=box.SIMPLE)
    for row in table.rows:
        drawn.add_row(*row)
    print_table(drawn)


if __name__ == "__main__":
    run_command(report)
