"""Pictures made of panels: a figure for the files, a small SVG per panel for the page, and the keys of both.

Readable in grey: series differ in marker or line, not in colour alone. Colours are those of the light page; on the
page each becomes a CSS variable, so that it follows light and dark.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from rlc.reporting import published
from rlc.reporting.study import Task

INK = "#1f2328"
MUTED = "#59636e"
GRID = "#d1d9e0"
SERIES = ("#0a5dc2", "#b34700", "#1a7f37", "#8250df", "#c4183c", "#0b7285", "#7a5b00", "#a8327d")
# By which name the page knows each colour.
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {color: f"c{k}" for k, color in enumerate(SERIES)}
DASHES = ("", "5 2.5", "1.5 1.5", "6 2 1.5 2", "8 3")
MARKERS = "osD^vP*X"
TEXT: Any = {"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "rlc"}
PANEL = (3.7, 2.7)
"""Width and height of a panel in inches."""


@dataclass(frozen=True)
class Style:
    """How a series looks. `dashes`: lengths of strokes and gaps, empty for a whole line, None for no line."""

    color: str
    marker: str = ""
    dashes: str | None = None

    @property
    def of_lines(self) -> dict[str, Any]:
        """The same for Axes.plot."""
        drawn: dict[str, Any] = {"color": self.color, "marker": self.marker, "linestyle": ""}
        if self.dashes is not None:
            lengths = [float(word) for word in self.dashes.split()]
            drawn["linestyle"] = (0, lengths) if lengths else "-"
        return drawn

    @property
    def outline(self) -> str:
        """The marker as the path of an SVG in a box of 2 by 2 around the origin."""
        if not self.marker:
            return ""
        style = MarkerStyle(self.marker)
        path = style.get_path().transformed(style.get_transform()).interpolated(1)
        rings = [np.asarray(ring, np.float64) for ring in path.to_polygons()]
        scale = 1 / max(float(np.abs(ring).max()) for ring in rings)
        drawn = []
        for ring in rings:
            corners = (f"{scale * float(x):.2f},{-scale * float(y):.2f}" for x, y in ring)
            drawn.append(f"M{' '.join(corners)}")
        return " ".join(drawn)


METHODS = {
    "fp32": Style(INK, "o"),
    "ptdq": Style(SERIES[0], "s"),
    "ptsq": Style(SERIES[2], "D"),
    "qat": Style(SERIES[1], "^"),
    "prune_l1": Style(SERIES[3], "v"),
    "prune_l2": Style(SERIES[4], "P"),
    "prune_ptdq": Style(SERIES[6], "<"),
    "prune_ptsq": Style(SERIES[7], ">"),
    "prune_qat": Style(SERIES[5], "*"),
}


class Tip(NamedTuple):
    """What is said of a mark that is pointed at, and the words that find its rows in the table of costs.

    `large`: a mark that is chosen before a small one beside it, and that the keyboard reaches.
    """

    text: str
    rows: str
    large: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    `labels`: texts beside points; `taken`: other points, which they must not cover. `tips`: of artists by their gid.
    """

    title: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = PANEL
    labels: dict[tuple[float, float], str] = field(default_factory=dict)
    taken: Sequence[tuple[float, float]] = ()
    tips: dict[str, Tip] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """What a figure shows: `name` of its files, and whose data it has."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    columns: int
    keys: dict[str, Style] = field(default_factory=dict)
    data: Literal["ours", "paper"] = "ours"


def method_of(variant: str) -> str:
    """The method of a variant, without its ratio, bits and recovery."""
    return variant.partition("-")[0].partition("+")[0]


def keys_of(variants: Iterable[str]) -> dict[str, Style]:
    """The styles of the methods of some variants, in the order of METHODS."""
    used = {method_of(name) for name in variants}
    return {method: style for method, style in METHODS.items() if method in used}


def environment_styles(envs: Sequence[str]) -> dict[str, Style]:
    """A colour, a marker and a line for each environment."""
    shown = enumerate(envs)
    return {env: Style(SERIES[k % len(SERIES)], MARKERS[k % len(MARKERS)], DASHES[k % len(DASHES)]) for k, env in shown}


def ordered(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each name once, in the paper's order; others behind, as they come."""

    def place(name: str) -> int:
        matches = [i for i, known in enumerate(order) if name in (known, f"{known}-{published.VERSION}")]
        return matches[0] if matches else len(order)

    return sorted(dict.fromkeys(names), key=place)


def short_name(env: str) -> str:
    """Name of an environment without the version that the paper has too."""
    return env.removesuffix(f"-{published.VERSION}")


def title(task: Task) -> str:
    """A task above a panel."""
    return f"{task.algo.upper()} {short_name(task.env_id)}"


def draw_whole(picture: Picture) -> Figure:
    """All panels of a picture and their keys in one figure."""
    with mpl.rc_context(TEXT):
        columns = min(picture.columns, len(picture.panels))
        rows = -(-len(picture.panels) // columns)
        width = columns * max(panel.size[0] for panel in picture.panels)
        height = rows * max(panel.size[1] for panel in picture.panels)
        figure = Figure(figsize=(width, height + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, picture.panels, strict=False):
            _draw(axes, panel)
        for axes in grid.flat[len(picture.panels) :]:
            axes.set_axis_off()
        if picture.keys:
            keys = [mpl.lines.Line2D([], [], **style.of_lines, label=name) for name, style in picture.keys.items()]
            figure.legend(handles=keys, loc="outside lower center", ncols=min(9, 3 * columns), frameon=False)
        for axes, panel in zip(grid.flat, picture.panels, strict=False):
            _place_labels(axes, panel)
    return figure


def panel_svg(panel: Panel, prefix: str) -> str:
    """A panel as SVG for the page: text as text, colours as variables, identifiers that begin with `prefix`."""
    with mpl.rc_context(TEXT):
        figure = Figure(figsize=panel.size, layout="constrained")
        axes = figure.subplots()
        _draw(axes, panel)
        _place_labels(axes, panel)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1, flags=re.S)
    text = text.replace("<svg", f'<svg role="group" aria-label="{escape(panel.title)}"', 1)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{prefix}-", text)
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    # One stop of the tab key for each panel: arrow keys go on from there (page.js).
    entry = next((gid for gid, tip in panel.tips.items() if tip.large), None)
    for gid, tip in panel.tips.items():
        kind = "mark"
        if tip.large:
            kind = f'mark large" tabindex="{0 if gid == entry else -1}'
        words = f'class="{kind}" role="link" aria-label="{escape(tip.text)}" data-rows="{escape(tip.rows)}"'
        text = text.replace(f'<g id="{prefix}-{gid}">', f'<g id="{prefix}-{gid}" {words}>', 1)
    return text


def _draw(axes: Axes, panel: Panel) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(labelsize=7.5, color=GRID, labelcolor=MUTED)
    axes.grid(color=GRID, lw=0.5)
    axes.set_axisbelow(True)
    axes.set_title(panel.title, fontsize=9, color=INK, fontweight="bold")
    panel.draw(axes)
    axes.xaxis.label.set(size=8, color=MUTED)
    axes.yaxis.label.set(size=8, color=MUTED)


def _place_labels(axes: Axes, panel: Panel) -> None:
    """Write each label where it lies on no other one, on no point and inside the axes; leave it out where it cannot."""
    if not panel.labels:
        return
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    points = axes.transData.transform([*panel.labels, *panel.taken])
    boxes = [mpl.transforms.Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    frame = axes.get_window_extent()
    for point, text in panel.labels.items():
        for dx, dy, ha, va in _PLACES:
            written = axes.annotate(
                text, point, (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=7, color=INK
            )
            box = written.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in boxes):
                boxes.append(box)
                if max(abs(dx), abs(dy)) > _PLACES[0][0]:
                    line = {"arrowstyle": "-", "lw": 0.5, "color": MUTED, "shrinkA": 0, "shrinkB": 4}
                    axes.annotate("", point, (dx, dy), textcoords="offset points", arrowprops=line)
                break
            written.remove()


# Offsets in points and alignments that are tried for a label, the best first.
_PLACES = [
    (dx * step, dy * step, {1: "left", -1: "right", 0: "center"}[dx], {1: "bottom", -1: "top", 0: "center"}[dy])
    for step in (6, 12, 20)
    for dx, dy in ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
]
