"""The table shown at the end of a command."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rlc.runs import Run


def show(finished: Iterable[Run]) -> None:
    """Returns and sizes of finished runs, beside a random and a zero-action policy in the same environment."""
    ordered = sorted(finished, key=lambda run: (run.settings.env.id, run.settings.algo.name, run.label, run.seed))
    if not ordered:
        return
    table = Table("environment", "policy", box=box.SIMPLE)
    for header in ("seed", "return", "fp32 return", "file KB", "weights KB"):
        table.add_column(header, justify="right")
    for env_id, group in groupby(ordered, key=lambda run: run.settings.env.id):
        result: dict[str, Any] = {}
        for run in group:
            result = run.result() or {}
            table.add_row(env_id, f"{result['algo']} {run.label}", str(run.seed), *_figures(run, result))
        for name in ("random", "zero"):
            row = _spread(result[f"{name}_return_mean"], result[f"{name}_return_std"])
            table.add_row(env_id, f"{name} action", "", row)
        table.add_section()
    # Without a terminal rich assumes 80 columns, too few for the table.
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=120)
    console.print(table)


def _figures(run: Run, result: dict[str, Any]) -> list[str]:
    baseline = Run(run.job.with_fp32(), run.seed)
    fp32 = (baseline.result() or {}).get("return_mean") if baseline.finished() else result["fp32_return_mean"]
    return [
        _spread(result["return_mean"], result["return_std"]),
        "-" if fp32 is None else f"{fp32:.1f}",
        f"{result['onnx_file_bytes'] / 1000:.1f}",
        f"{result['weight_bytes'] / 1000:.1f}",
    ]


def _spread(mean: float, std: float) -> str:
    return f"{mean:.1f} +- {std:.1f}"
