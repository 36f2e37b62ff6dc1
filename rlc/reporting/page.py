"""The page of a report: one file that needs no network."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rlc.datafiles import DATA
from rlc.messages import counted
from rlc.reporting.findings import HOW_DECIDED, Finding
from rlc.reporting.panels import VARIABLES, Picture, panel_svg
from rlc.reporting.sources import machines, run_list, training_costs
from rlc.reporting.study import Study
from rlc.reporting.summary import circumstances, glossary, scope, statements
from rlc.reporting.tables import DASH, ReportTable
from rlc.runs.stored import StoredRun

PARTS = DATA / "page"
ENLARGED = 1.8
"""How much larger than drawn a panel gets at most: its text stays text of a page."""
LONG = 44
"""Characters from which on a cell is broken into lines."""


@dataclass(frozen=True)
class Report:
    """All that a report shows."""

    study: str
    runs: Sequence[StoredRun]
    ours: Study
    as_published: Study
    claims: Sequence[Finding]
    tables: Sequence[ReportTable]
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Cell:
    """A cell of the page: what is read first, what stands smaller behind it, and the numbers of its notes."""

    main: str
    rest: str = ""
    kind: str = "short"
    notes: list[int] = field(default_factory=list)
    theirs: bool = False
    link: str = ""


def render(report: Report, folder: Path | None) -> str:
    """The page as HTML; with the folder that it is written to, runs are linked."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=jinja2.FileSystemLoader(PARTS)
    )
    runs = run_list(report.runs)
    links = [os.path.relpath(run.path, folder) + "/" for run in report.runs] if folder is not None else []
    sources = [machines(report.runs), training_costs(report.runs)]
    drawn = [_drawn(picture) for picture in report.pictures]
    return environment.get_template("page.html").render(
        css=Markup((PARTS / "page.css").read_text()),
        js=Markup((PARTS / "page.js").read_text()),
        study=report.study,
        scope=scope(report.ours if report.ours.runs else report.as_published, report.runs),
        statements=statements(report.ours, report.as_published, report.claims),
        facts=circumstances(report.runs),
        claims=[
            ("Of the paper", [claim for claim in report.claims if not claim.own]),
            ("Of this project", [claim for claim in report.claims if claim.own]),
        ],
        how_decided=HOW_DECIDED,
        glossary=glossary(report.ours),
        pictures=[picture for picture in drawn if picture["data"] == "ours"],
        published=[picture for picture in drawn if picture["data"] == "paper"],
        tables=[_laid_out(table) for table in report.tables if table.rows and not table.beside],
        beside=[_laid_out(table) for table in report.tables if table.rows and table.beside],
        methods=_methods(report),
        sources=[*(_laid_out(table) for table in sources if table.rows), _laid_out(runs, links)],
    )


def _laid_out(table: ReportTable, links: Sequence[str] = ()) -> dict[str, Any]:
    """A table as the template wants it: the columns that name a row are one."""
    table = table.without_empty_columns()
    theirs = [table.beside and bool(re.search("paper|published", header)) for header in table.headers]
    names = table.headers[: table.keys]
    heads = [{"text": " / ".join(names), "notes": _of_columns(table, names), "theirs": False}]
    for header, its in zip(table.headers[table.keys :], theirs[table.keys :], strict=True):
        heads.append({"text": header, "notes": _of_columns(table, [header]), "theirs": its})
    rows = []
    for k, row in enumerate(table.rows):
        names = row[: table.keys]
        cells = [Cell(" ".join(names), notes=_called(table, *names), link=links[k] if links else "")]
        cells += [_cell(text, table, its) for text, its in zip(row[table.keys :], theirs[table.keys :], strict=True)]
        rows.append(cells)
    return {"name": table.name, "title": table.title, "beside": table.beside, "heads": heads} | {
        "rows": rows,
        "count": counted(len(rows), "row"),
        "notes": table.notes,
    }


def _of_columns(table: ReportTable, headers: Sequence[str]) -> list[int]:
    """The numbers of the notes that are said of columns."""
    return [k for k, note in enumerate(table.notes, 1) if set(headers) & set(note.columns)]


def _called(table: ReportTable, *texts: str) -> list[int]:
    """The numbers of the notes that texts of a row call."""
    # What a dash means stands below the table; a number at each of them would hide the others.
    said = [text for text in texts if text != DASH]
    return [k for k, note in enumerate(table.notes, 1) if any(map(note.calls, said))]


def _cell(text: str, table: ReportTable, theirs: bool) -> Cell:
    notes = _called(table, text)
    if len(text) > LONG and not re.match(r"-?[\d.,]+ %? ?\[", text):
        return Cell(text, "", "long", notes, theirs)
    parts = re.fullmatch(r"(-?[\d.,]+(?: %)?|-)((?: [\[(].*)?)", text)
    if parts:
        return Cell(parts[1], parts[2].strip(), "number", notes, theirs)
    return Cell(text, "", "short", notes, theirs)


def _drawn(picture: Picture) -> dict[str, Any]:
    keys = [
        {
            "name": name,
            "color": f"var(--{VARIABLES[style.color]})",
            "outline": style.outline,
            "dashes": style.dashes,
        }
        for name, style in picture.keys.items()
    ]
    svgs = [
        {"text": panel_svg(panel, f"{picture.name}-{k}"), "width": round(ENLARGED * 72 * panel.size[0])}
        for k, panel in enumerate(picture.panels)
    ]
    shown = {"name": picture.name, "title": picture.title, "caption": picture.caption, "data": picture.data}
    return shown | {"series": keys, "svgs": svgs, "columns": max(1, min(5, picture.columns, len(svgs)))}


def _methods(report: Report) -> list[str]:
    """How the numbers were made, as far as the settings of the runs say it."""
    episodes = sorted({run.settings.eval.episodes for run in report.runs})
    counts = " or ".join(str(count) for count in episodes)
    measured = [run for run in report.runs if run.measurement() is not None]
    paragraphs = [
        f"Returns are undiscounted, of the deployed policy, over {counts} episodes with deterministic actions, one "
        "observation at a time, in ONNX Runtime. Episode k begins in the same state for every policy of a task, so "
        "fp32 and compressed returns are paired; the start states are disjoint from those of training and "
        "calibration. The final weights count, not the best along the run (docs/concepts.md).",
        "Intervals are over seeds, of 95 %: Student's for means of a cell and over tasks, a bootstrap within each task "
        "for the probability that a run beats another. The start states are the same for all seeds. What a policy "
        "keeps is counted from random actions and against the fp32 policy of its own seed; qat, a training of its own, "
        "against the mean fp32 policy.",
    ]
    if measured:
        busy = [one.load["busy_percent"] for run in measured if (one := run.measurement()) and one.load]
        machine = {str(one.machine.get("cpu_model")) for run in measured if (one := run.measurement()) and one.machine}
        spread = " to ".join(dict.fromkeys((f"{min(busy):.0f}", f"{max(busy):.0f}"))) if busy else ""
        loads = f", while other work took {spread} % of the machine" if busy else ""
        paragraphs.append(
            f"{counted(len(measured), 'run')} were timed on {' and '.join(sorted(machine))}, with one pinned "
            f"thread{loads}. A time is that of one policy call without the simulator, the median of many calls; "
            "policies that are compared took turns."
        )
    if any(run.record_only() for run in report.runs):
        paragraphs.append(
            "Some runs came from a pack as records, without their policies: the command that made one makes it again "
            "with overwrite=true."
        )
    if report.as_published.runs:
        paragraphs.append(
            "The paper's protocol compresses and scores the same trainings as its published code did "
            "(docs/protocol.md)."
        )
    return paragraphs
