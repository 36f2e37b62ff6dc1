"""The table shown at the end of a command."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
from rich import box
from rich.table import Column, Table

from measure.statistics import mean_interval
from rlc.reporting.screen import print_table
from rlc.runs.find import comparison_key
from rlc.runs.records import MeasuredReturns, Measurement, RunResult, normalized_returns
from rlc.runs.stored import StoredRun
from rlc.runs.wording import without_shared

# With more runs than this the means over seeds stand in place of the seeds.
MOST_SEEDS = 40


def show(finished: Iterable[StoredRun]) -> None:
    """Returns and sizes of finished runs, beside a random and a zero-action policy in the same environment.

    Several seeds of a policy end with their mean; of many runs the means stand in place of the seeds.
    """
    ordered = sorted(finished, key=lambda run: (run.settings.env.id, run.settings.algo.name, run.label, run.seed))
    if not ordered:
        return
    words = dict(zip(ordered, without_shared([run.words for run in ordered]), strict=True))
    table = Table("environment", Column("policy", no_wrap=True), box=box.SIMPLE)
    groups = {run.path.parent for run in ordered}
    kept = ("kept",) if len(groups) < len(ordered) else ()
    for header in ("seed", "return", "fp32 return", "file KB", "weights KB", *kept):
        table.add_column(header, justify="right", no_wrap=header == "return")
    for env_id, group in groupby(ordered, key=lambda run: run.settings.env.id):
        scored: RunResult | None = None
        for _, seeds in groupby(group, key=lambda run: run.path.parent):
            runs = list(seeds)
            results = [run.finished_result() for run in runs]
            policy = f"{results[0].algo} {words[runs[0]]}"
            # References by our protocol, where there are both.
            if scored is None or scored.protocol != "ours":
                scored = results[0]
            if len(runs) == 1 or len(ordered) <= MOST_SEEDS:
                for run, result in zip(runs, results, strict=True):
                    table.add_row(env_id, policy, str(run.seed), *_cells(result))
            if len(runs) > 1:
                table.add_row(env_id, policy, f"mean of {len(runs)}", *_means(results))
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


def _cells(result: RunResult) -> list[str]:
    fp32 = result.fp32_return_mean
    return [
        _spread(result.return_mean, result.return_std),
        "-" if fp32 is None else f"{fp32:.1f}",
        f"{result.onnx_file_bytes / 1000:.1f}",
        f"{result.weight_bytes / 1000:.1f}",
    ]


def _means(results: Sequence[RunResult]) -> list[str]:
    """Means over seeds: the return with its interval, and the share of fp32's, both counted from random actions."""
    returns = mean_interval([result.return_mean for result in results])
    fp32 = [result.fp32_return_mean for result in results if result.fp32_return_mean is not None]
    shares = normalized_returns(results)
    return [
        f"{returns.value:.1f} [{returns.low:.1f}, {returns.high:.1f}]",
        f"{np.mean(fp32):.1f}" if len(fp32) == len(results) else "-",
        f"{np.mean([result.onnx_file_bytes for result in results]) / 1000:.1f}",
        f"{np.mean([result.weight_bytes for result in results]) / 1000:.1f}",
        f"{100 * np.mean(shares):.1f} %" if len(shares) else "-",
    ]


def _difference(row: MeasuredReturns) -> str:
    if row.return_difference_to_fp32_mean is None:
        return "-"
    interval = f"[{row.return_difference_to_fp32_low:.1f}, {row.return_difference_to_fp32_high:.1f}]"
    return f"{row.return_difference_to_fp32_mean:.1f} {interval}"


def _spread(mean: float, std: float) -> str:
    return f"{mean:.1f} +- {std:.1f}"
