"""The paper's Figures 1 to 3 as published, of the tasks that a study has."""

from collections.abc import Iterator

from measure.statistics import Interval
from rlc.datafiles import read
from rlc.reporting import published
from rlc.reporting.figures import Values, by_method, by_ratio
from rlc.reporting.panels import Picture, title
from rlc.reporting.study import Study
from rlc.reporting.tables import QUANTIZED

# Of the paper's files: of episodes with the simulator in them, and of the whole process.
COSTS = (
    ("time_s_mean", "time per episode (s)"),
    ("energy_j", "energy of a run (J)"),
    ("ram_mb_mean", "memory of the process (MB)"),
)
CAPTION = "The paper's data: one policy per point. Times and energy have the simulator in them."


def published_pictures(study: Study) -> list[Picture]:
    """The paper's figures, each where its files have a task of the study."""
    heading = "Figure 1 as published: time, energy and memory by quantisation"
    drawn = [by_method("figure1_published", heading, _by_method(study), "paper", CAPTION)]
    for norm in (1, 2):
        heading = f"Figure {norm + 1} as published: pruning by L{norm}, over the baseline"
        without = [title(task) for task in study.tasks if not published.pruning_returns(task, norm)]
        caption = f"{CAPTION} Not drawn, for want of data of the paper: {', '.join(without)}." if without else CAPTION
        drawn.append(by_ratio(f"figure{norm + 1}_published", heading, _by_ratio(study, norm), "paper", caption))
    return [picture for picture in drawn if picture.panels]


def _by_method(study: Study) -> Iterator[tuple[str, Values]]:
    methods = dict(zip(published.METHODS, QUANTIZED, strict=True))
    tasks = {(task.algo, task.env): task for task in study.tasks if published.of_the_paper(task)}
    for name, label in COSTS:
        found: dict[tuple[str, str], dict[str, Interval]] = {}
        for row in read("paper/figure1_quantization.csv"):
            task = tasks.get((row["algo"], row["env"]))
            if task and row[name]:
                found.setdefault((task.algo, task.env_id), {})[methods[row["method"]]] = _alone(float(row[name]))
        yield label, found


def _by_ratio(study: Study, norm: int) -> Iterator[tuple[str, Values]]:
    tasks = {(task.algo, task.env): task for task in study.tasks if published.pruning_returns(task, norm)}
    for name, label in (("return_mean", "return"), *COSTS):
        found: dict[tuple[str, str], dict[float, float]] = {}
        for row in read("paper/figures2_3_pruning.csv"):
            task = tasks.get((row["algo"], row["env"]))
            if task and row["norm"] == f"l{norm}" and row[name]:
                found.setdefault((task.algo, task.env_id), {})[float(row["ratio"])] = float(row[name])
        yield label, {key: _over_baseline(values) for key, values in found.items() if values.get(0.0)}


def _over_baseline(values: dict[float, float]) -> dict[float, Interval]:
    return {ratio: _alone(value / values[0.0]) for ratio, value in values.items()}


def _alone(value: float) -> Interval:
    """A value without an interval."""
    return Interval(value, float("-inf"), float("inf"))
