"""The table of the README: what each method keeps on each task, and what it costs."""

from measure.statistics import mean_of_groups
from rlc.reporting.panels import title
from rlc.reporting.pareto import (
    by_the_papers_protocol,
    points,
    said,
    well_trained,
)
from rlc.reporting.study import Study
from rlc.reporting.tables import DASH, QUANTIZED, Note, ReportTable, fewest_to_most, percent, share_in_words

PAPERS_WAY = "the paper's way: "


def overview(study: Study, as_published: Study) -> ReportTable:
    """A row per method that all well-trained tasks have, the one that keeps most first."""
    tasks = well_trained(study)
    native = {point.variant: point for point in points(study, "infer.native_p50_us", "infer.onnx_run_p50_us")}
    rows: list[tuple[float, list[str]]] = []
    for point in points(study, "weight_bytes", "weight_bytes"):
        kept = [percent(share) for *_, share in point.tasks.values()]
        timed = native.get(point.variant)
        costs = [percent(point.cost), percent(timed.cost) if timed else DASH]
        named = _named(point.variant)
        rows.append((point.kept.value, [named, share_in_words(point.kept), *costs, fewest_to_most(point.seeds), *kept]))
    for method in QUANTIZED:
        found = by_the_papers_protocol(study, as_published, method)
        if tasks and len(found) == len(tasks):
            mean = mean_of_groups(list(found.values()))
            kept = [percent(float(found[task].mean())) for task in tasks]
            seeds = fewest_to_most([len(found[task]) for task in tasks])
            rows.append((mean.value, [f"{PAPERS_WAY}{method}", share_in_words(mean), DASH, DASH, seeds, *kept]))
    names = [title(task) for task in tasks]
    as_the_paper = tuple(f"{PAPERS_WAY}{method}" for method in QUANTIZED)
    notes = [
        Note("return kept, from random actions (0 %) to the fp32 policy of the same seed (100 %).", (*names, "mean")),
        Note("over tasks [95 % Student interval over seeds].", ("mean",)),
        Note("of the weights, in percent of fp32.", ("bytes",)),
        Note("of an action as native C, in percent of fp32 in ONNX Runtime.", ("time as C",)),
        Note("compressed and scored as the paper's code did it, in percent of fp32 by our protocol.", (), as_the_paper),
    ]
    headers = ["method", "mean", "bytes", "time as C", "seeds", *names]
    ranked = [row for _, row in sorted(rows, key=lambda one: -one[0])]
    return ReportTable("overview", "What each method keeps, task by task", headers, ranked, notes)


def _named(variant: str) -> str:
    """A variant by its name, and in words where they say more."""
    words = said(variant)
    return variant if words == variant else f"{variant}: {words}"
