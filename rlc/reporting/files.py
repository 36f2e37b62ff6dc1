"""The files of a report: tables as Markdown, LaTeX and CSV, pictures as PNG and SVG."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from tabulate import tabulate

from compression.files import write_atomic
from rlc.reporting.panels import TEXT, Picture, draw_whole
from rlc.reporting.tables import ReportTable


def write_table(folder: Path, table: ReportTable) -> None:
    """The table as .md, .tex and .csv."""
    notes = [(f"{', '.join(note.columns)}: " if note.columns else "") + note.text for note in table.notes]
    rows = [list(map(_without_bars, row)) for row in table.rows]
    markdown = tabulate(rows, table.headers, tablefmt="github", disable_numparse=True)
    latex = tabulate(table.rows, table.headers, tablefmt="latex_booktabs", disable_numparse=True)
    comments = "\n".join(f"% {line}" for line in (table.title, *notes))
    listed = "\n".join(f"- {note}" for note in notes)
    for suffix, text in (
        ("md", f"**{table.title}**\n\n{markdown}\n\n{listed}\n"),
        ("tex", f"{comments}\n{latex}\n"),
        ("csv", csv_text(table.headers, table.rows)),
    ):
        write_atomic(folder / f"{table.name}.{suffix}", text.encode())


def _without_bars(cell: str) -> str:
    """A cell as Markdown takes it."""
    return cell.replace("|", "\\|")


def write_picture(folder: Path, picture: Picture) -> None:
    """The picture as .png and .svg."""
    figure = draw_whole(picture)
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        with mpl.rc_context(TEXT):
            figure.savefig(buffer, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
        write_atomic(folder / f"{picture.name}.{suffix}", buffer.getvalue())


def csv_text(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([headers, *rows])
    return text.getvalue()
