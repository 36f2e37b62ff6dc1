"""What a study says, in a few sentences made from its data."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from measure.statistics import Interval, mean_of_groups
from rlc.messages import counted
from rlc.reporting.findings import FAILS, HOLDS, UNKNOWN, Finding
from rlc.reporting.own_findings import TARGET
from rlc.reporting.panels import method_of, ordered, short_name
from rlc.reporting.pareto import Point, by_the_papers_protocol, points, said, well_trained
from rlc.reporting.sources import commit_of, core_hours, date_of, machine_of, span
from rlc.reporting.study import ALGORITHMS, ENVIRONMENTS, Cell, Study, Task
from rlc.reporting.tables import QUANTIZED, fewest_to_most, percent, share_in_words
from rlc.runs.stored import StoredRun

HALF = 0.5
GLOSSARY = {
    "fp32": "the policy as it was trained, in 32-bit floating point",
    "ptdq": "dynamic int8: weights quantised after training, the range of each layer's input found in every call",
    "ptsq": "static int8: weights and inputs quantised after training, ranges found once on calibration states",
    "qat": "int8 quantisation-aware training: a training of its own in which the actor is quantised",
    "prune_l1, prune_l2": "the hidden units with the smallest L1 or L2 norms removed, at the ratio that follows",
    "prune_qat, prune_ptdq, prune_ptsq": "pruned, then taught by the fp32 policy and quantised; w4: weights of 4 bits",
}


class Statement(NamedTuple):
    """A number that one remembers, and the sentence it stands for."""

    figure: str
    text: str


def scope(study: Study, runs: Sequence[StoredRun]) -> str:
    """What was run: tasks, steps, seeds."""
    cells = [cell for task in study.tasks if (cell := study.cell(task, "fp32"))]
    counts = [cell.n for cell in cells] or [cell.n for cell in study.cells.values()]
    steps = sorted({cell.settings.total_steps for cell in cells or study.cells.values()})
    seeds = fewest_to_most(counts) if counts else "0"
    trained = " or ".join(f"{count:,}" for count in steps)
    tasks = tasks_in_words(study.tasks)
    return f"{tasks}: {trained} steps, {seeds} seeds of fp32 each, {counted(len(runs), 'run')} in all."


def circumstances(runs: Sequence[StoredRun]) -> list[tuple[str, str]]:
    """When, by which code and where the runs were made, as they recorded it."""
    hosts = Counter(machine_of(run) for run in runs)
    commits = Counter(commit_of(run) for run in runs)
    versions = {
        f"torch {made['torch']}, ONNX Runtime {made['onnxruntime']}, MuJoCo {made['mujoco']}"
        for run in runs
        if (made := run.finished_result().provenance.versions).keys() >= {"torch", "onnxruntime", "mujoco"}
    }
    hours = core_hours(runs)
    facts = [
        ("days", span(date_of(run) for run in runs)),
        ("code", ", ".join(f"{commit} ({count})" for commit, count in commits.most_common())),
        ("machines", "; ".join(f"{host} ({count})" for host, count in hosts.most_common())),
        ("versions", "; ".join(sorted(versions))),
        ("training", f"{hours:.1f} core-hours" if hours else ""),
    ]
    return [(name, text) for name, text in facts if text]


def tasks_in_words(tasks: Sequence[Task]) -> str:
    """TRPO and PPO on HalfCheetah and Hopper; task by task where some pairs are missing."""
    algorithms = ordered((task.algo for task in tasks), ALGORITHMS)
    envs = ordered((task.env_id for task in tasks), ENVIRONMENTS)
    if len(tasks) == len(algorithms) * len(envs):
        return f"{_joined([algo.upper() for algo in algorithms])} on {_joined([short_name(env) for env in envs])}"
    return _joined([f"{task.algo.upper()} on {short_name(task.env_id)}" for task in tasks])


def glossary(study: Study) -> list[tuple[str, str]]:
    """What the short names on the page mean, as far as they are in a study."""
    used = {method_of(cell.variant) for cell in study.cells.values()}
    return [(name, text) for name, text in GLOSSARY.items() if used & set(re.findall(r"\w+", name))]


def statements(study: Study, as_published: Study, claims: Sequence[Finding]) -> list[Statement]:
    """What the study says of size, quantisation, time, pruning and the paper, as far as it has the runs."""
    found = [
        _smallest(study),
        _quantised(study),
        _time(study),
        _pruned(study),
        _losses(study, as_published),
        _claims(claims),
    ]
    return [statement for statement in found if statement is not None]


def _smallest(study: Study) -> Statement | None:
    fitting = [p for p in points(study, "weight_bytes", "weight_bytes") if p.kept.value >= TARGET and p.cost < 1]
    if not fitting:
        return None
    best = min(fitting, key=lambda point: point.cost)
    text = (
        f"of the bytes: {said(best.variant)} ({best.variant}) keeps {share_in_words(best.kept)} of the fp32 return, "
        f"mean over {_tasks(best)}. It is the smallest whose mean is {percent(TARGET, 0)} or more."
    )
    return Statement(f"1/{1 / best.cost:.0f}", text)


def _quantised(study: Study) -> Statement | None:
    """What the methods keep that quantise a finished policy, the least first; then QAT, a training of its own."""
    found = {method: _cells(study, method) for method in QUANTIZED[1:]}
    shares = {method: _over_tasks(cells) for method, cells in found.items() if cells}
    derived = sorted((method for method in shares if method != "qat"), key=lambda method: shares[method].value)
    if not derived:
        return None
    parts = [f"{said(name)} ({name}) keeps {share_in_words(shares[name])} of the fp32 return" for name in derived]
    text = f"{'; '.join(parts)}, {_count(found[derived[0]])}."
    if "qat" in shares:
        text += (
            f" {said('qat').capitalize()} (qat), a training of its own, returns {share_in_words(shares['qat'])} of the "
            f"mean fp32 policy (interval over its own seeds), {_count(found['qat'])}."
        )
    return Statement(percent(shares[derived[0]].value), f"and more is what int8 keeps on average: {text}")


def _time(study: Study) -> Statement | None:
    native = {p.variant: p for p in points(study, "infer.native_p50_us", "infer.onnx_run_p50_us")}
    onnx = {p.variant: p for p in points(study, "infer.onnx_run_p50_us", "infer.onnx_run_p50_us")}
    fitting = [p for p in native.values() if p.kept.value >= TARGET and p.variant != "fp32"]
    if not fitting:
        return None
    best = min(fitting, key=lambda point: point.cost)
    others = []
    if "fp32" in native:
        others.append(f"fp32 as C is {1 / native['fp32'].cost:.1f} times as fast")
    if "ptsq" in onnx:
        others.append(f"static int8 in ONNX Runtime {1 / onnx['ptsq'].cost:.2f} times")
    text = (
        f"as fast as fp32 in ONNX Runtime: {said(best.variant)} ({best.variant}) as C, called from Python, mean "
        f"over {_tasks(best)}." + (f" {_joined(others)}." if others else "")
    )
    return Statement(f"{1 / best.cost:.1f}x", text)


def _halved(study: Study, norm: int) -> list[Cell]:
    return [cell for task in well_trained(study) if (cell := study.pruned(task, norm).get(HALF))]


def _pruned(study: Study) -> Statement | None:
    by_norm = {norm: _halved(study, norm) for norm in (1, 2)}
    parts = [f"{share_in_words(_over_tasks(cells))} by L{norm}" for norm, cells in by_norm.items() if cells]
    if not parts:
        return None
    cells = by_norm[2] or by_norm[1]
    text = f"is left where half of the units are pruned and nothing recovers: {_joined(parts)}, {_count(cells)}."
    return Statement(percent(_over_tasks(cells).value, 0), text)


def _losses(study: Study, as_published: Study) -> Statement | None:
    tasks = well_trained(study)
    if not tasks:
        return None
    shares = []
    for method in ("fp32", "ptdq", "ptsq"):
        found = by_the_papers_protocol(study, as_published, method)
        if len(found) < len(tasks):
            return None
        shares.append((method, mean_of_groups(list(found.values())).value))
    words = _joined([f"{percent(share, 0)} as {method}" for method, share in shares])
    worst = min(share for _, share in shares)
    text = (
        f"is left of the same fp32 policies where they are quantised and scored as the paper's code did it: "
        f"{words}, of what fp32 returns by our protocol, {counted(len(tasks), 'task')}."
    )
    return Statement(percent(worst, 0), text)


def _claims(claims: Sequence[Finding]) -> Statement | None:
    verdicts = Counter(claim.verdict for claim in claims)
    decided = verdicts[HOLDS] + verdicts[FAILS]
    text = f"claims are decided by their written rules: {verdicts[HOLDS]} hold, {verdicts[FAILS]} do not"
    return Statement(f"{decided} of {len(claims)}", f"{text}; {verdicts[UNKNOWN]} are undecided.")


def _cells(study: Study, variant: str) -> list[Cell]:
    cells = [study.cell(task, variant) for task in well_trained(study)]
    return [cell for cell in cells if cell is not None and len(cell.normalized_return)]


def _over_tasks(cells: Sequence[Cell]) -> Interval:
    return mean_of_groups([cell.normalized_return for cell in cells])


def _tasks(point: Point) -> str:
    return f"{counted(len(point.tasks), 'task')} with {fewest_to_most(point.seeds)} seeds each"


def _count(cells: Sequence[Cell]) -> str:
    return f"{counted(len(cells), 'task')} with {fewest_to_most([cell.n for cell in cells])} seeds each"


def _joined(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"
