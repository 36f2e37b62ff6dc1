"""The table shown at the end of a command."""

from collections.abc import Iterable
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Column, Table

from rlc.runs.find import comparison_key
from rlc.runs.records import MeasuredReturns, Measurement, RunResult
from rlc.runs.stored import StoredRun
from rlc.runs.wording import without_shared


def show(finished: Iterable[StoredRun]) -> None:
    """Returns and sizes of finished runs, beside a random and a zero-action policy in the same environment."""
    ordered = sorted(finished, key=lambda run: (run.settings.env.id, run.settings.algo.name, run.label, run.seed))
    if not ordered:
        return
    words = dict(zip(ordered, without_shared([run.words for run in ordered]), strict=True))
    table = Table("environment", Column("policy", no_wrap=True), box=box.SIMPLE)
    for header in ("seed", "return", "fp32 return", "file KB", "weights KB"):
        table.add_column(header, justify="right")
    for env_id, group in groupby(ordered, key=lambda run: run.settings.env.id):
        scored: RunResult | None = None
        for run in group:
            result = run.finished_result()
            # References by our protocol, where there are both.
            if scored is None or scored.protocol != "ours":
                scored = result
            table.add_row(env_id, f"{result.algo} {words[run]}", str(run.seed), *_cells(result))
        if scored is not None:
            random = _spread(scored.random_return_mean, scored.random_return_std)
            zero = _spread(scored.zero_return_mean, scored.zero_return_std)
            table.add_row(env_id, "random action", "", random)
            table.add_row(env_id, "zero action", "", zero)
        table.add_section()
    print_table(table)


def show_returns(env_id: str, rows: dict[str, MeasuredReturns]) -> None:
    """Summaries of episodes by policy."""
    table = Table("environment", "policy", box=box.SIMPLE)
    for header in ("episodes", "return", "median", "end early", "difference to fp32"):
        table.add_column(header, justify="right")
    for name, row in rows.items():
        table.add_row(
            env_id,
            name,
            str(row.episodes),
            _spread(row.return_mean, row.return_std),
            f"{row.return_median:.1f}",
            f"{100 * row.early_end_share:.0f} %",
            _difference(row),
        )
    print_table(table)


def show_measurements(runs: Iterable[StoredRun]) -> None:
    """What was measured of runs, with ratios to the fp32 run in front of them."""
    table = Table("environment", Column("policy", no_wrap=True), box=box.SIMPLE)
    table.add_column("seed", justify="right")
    for header, *_ in MEASURED:
        table.add_column(header, justify="right")
    reasons = set()
    for _, group in groupby(runs, key=comparison_key):
        fp32: Measurement | None = None
        for run in group:
            measurement = run.measurement() or Measurement()
            if run.settings.is_fp32:
                fp32 = measurement
            cells = []
            for _, section, name, unit in MEASURED:
                # Returns by two protocols are no ratio.
                comparable = section != "eval" or run.settings.protocol == "ours"
                cells.append(_ratio(measurement, fp32 if comparable else None, section, name, unit))
            policy = f"{run.settings.algo.name} {run.words}"
            table.add_row(run.settings.env.id, policy, str(run.seed), *cells)
            reasons.add(("energy", measurement.energy.missing_reason))
            reasons.add(("native time", measurement.infer.native_reason))
        table.add_section()
    print_table(table)
    print("in brackets: times the fp32 figure; p50 of a call; copy: memory that one more loaded copy takes")
    print("native: the policy as C, called from Python; bytes of its instructions and constants")
    for missing, reason in sorted((missing, reason) for missing, reason in reasons if reason):
        print(f"no {missing}: {reason}")


# Header, section, name and unit of a measured value, by column.
MEASURED = (
    ("return", "eval", "return_mean", 1),
    ("run us", "infer", "onnx_run_p50_us", 1),
    ("binding us", "infer", "onnx_io_binding_p50_us", 1),
    ("eager us", "infer", "torch_eager_p50_us", 1),
    ("native us", "infer", "native_p50_us", 1),
    ("file KB", "mem", "onnx_file_bytes", 1000),
    ("native KB", "mem", "native_bytes", 1000),
    ("copy KB", "mem", "bytes_per_copy", 1000),
    ("J/1000", "energy", "joules_per_1000_actions", 1),
)


def _ratio(measurement: Measurement, fp32: Measurement | None, section: str, name: str, unit: float) -> str:
    """A measured value, and how many times that of fp32 it is."""
    value = measurement.value(section, name)
    if value is None:
        return "-"
    reference = None if fp32 is None else fp32.value(section, name)
    return f"{value / unit:.4g}" + (f" ({value / reference:.2f})" if reference else "")


def print_table(table: Table) -> None:
    """On a terminal as wide as it is, elsewhere wide enough."""
    # Names and labels are no markup: "[red]" and ":x:" in them stand as they are.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200  # rich assumes 80 columns, too few for the table
    console.print(table)


def _cells(result: RunResult) -> list[str]:
    fp32 = result.fp32_return_mean
    return [
        _spread(result.return_mean, result.return_std),
        "-" if fp32 is None else f"{fp32:.1f}",
        f"{result.onnx_file_bytes / 1000:.1f}",
        f"{result.weight_bytes / 1000:.1f}",
    ]


def _difference(row: MeasuredReturns) -> str:
    if row.return_difference_to_fp32_mean is None:
        return "-"
    interval = f"[{row.return_difference_to_fp32_low:.1f}, {row.return_difference_to_fp32_high:.1f}]"
    return f"{row.return_difference_to_fp32_mean:.1f} {interval}"


def _spread(mean: float, std: float) -> str:
    return f"{mean:.1f} +- {std:.1f}"
