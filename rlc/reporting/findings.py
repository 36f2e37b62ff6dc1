"""What the paper claims, and what a study says of it, by rules that are stated with the verdict."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from measure.statistics import FloatVector, Interval, improvement, interquartile_mean, mean_of_groups
from rlc.messages import counted
from rlc.reporting.published import KEEPS
from rlc.reporting.study import Cell, Study, over_fp32
from rlc.reporting.tables import QUANTIZED, at_least, fewest_to_most, percent

LEAST_SEEDS = 3
LEAST_TASKS = 2
HOLDS = "holds"
FAILS = "does not hold"
UNKNOWN = "undecided"
HOW_DECIDED = (
    f"{HOLDS}: the 95 % interval lies wholly on the claim's side; {FAILS}: wholly on the other side; {UNKNOWN}: "
    f"neither, or fewer than {LEAST_TASKS} tasks. The paper's claims and that of the two protocols rest on all tasks, "
    "the others on the well-trained ones. Left out: seeds whose fp32 policy is no better than random actions, and "
    f"cells of fewer than {LEAST_SEEDS} seeds."
)
Cells = Sequence[Cell]
# What runs a policy, and the measured time of an action there.
WAYS = {"in ONNX Runtime": "infer.onnx_run_p50_us", "as native C": "infer.native_p50_us"}


@dataclass(frozen=True)
class Finding:
    """A claim, the rule that decides it, the evidence, and the verdict."""

    claim: str
    rule: str
    evidence: str
    verdict: str
    own: bool = False
    """Of this project, not of the paper."""


def findings(study: Study) -> list[Finding]:
    """All claims of the paper that a study can speak to."""
    return [
        _better(study, "PTDQ is the best quantisation", "ptdq", ("ptsq", "qat")),
        _better(study, "PTSQ is the worst quantisation", "ptsq", ("ptdq", "qat"), worse=True),
        _better(study, "QAT helps SAC", "qat", ("fp32",), algo="sac"),
        *(_no_time_gain("Quantisation", _quantized_pairs(study), way) for way in WAYS),
        *(_no_time_gain("Pruning", _pruned_pairs(study), way) for way in WAYS),
        _no_energy_gain(study),
        _memory(study),
        _l2_better(study),
        _ten_percent(study),
        _lottery_ticket(study),
    ]


def verdict(intervals: Sequence[Interval], threshold: float, groups: Sequence[Cells]) -> str:
    """holds where every interval lies above the threshold, does not hold where one lies below it, else unknown.

    Unknown too with fewer than LEAST_TASKS tasks; cells of fewer than LEAST_SEEDS seeds were left out before.
    """
    if not has_enough_tasks(itertools.chain.from_iterable(groups)):
        return UNKNOWN
    if all(interval.low > threshold for interval in intervals):
        return HOLDS
    return FAILS if any(interval.high < threshold for interval in intervals) else UNKNOWN


def decided(
    claim: str, rule: str, evidence: str, intervals: Sequence[Interval], threshold: float, groups: Sequence[Cells]
) -> Finding:
    """A claim with its verdict; where there is none, the evidence ends in what is missing."""
    found = verdict(intervals, threshold, groups)
    if found == UNKNOWN:
        enough = has_enough_tasks(itertools.chain.from_iterable(groups))
        missing = "the interval lies on both sides" if enough else f"missing: {LEAST_TASKS} tasks"
        evidence = f"{evidence}; {missing}"
    return Finding(claim, rule, evidence, found)


def has_enough_tasks(cells: Iterable[Cell]) -> bool:
    """Whether there are tasks to speak of."""
    return len({cell.task for cell in cells}) >= LEAST_TASKS


def has_enough_seeds(cell: Cell) -> bool:
    """Whether a cell has seeds to speak of: those whose fp32 policy learned."""
    return len(cell.normalized_return) >= LEAST_SEEDS


def _better(
    study: Study, claim: str, method: str, others: Sequence[str], algo: str | None = None, worse: bool = False
) -> Finding:
    """Whether a run of `method` beats one of each of the others, on the average task."""
    word = "loses to" if worse else "beats"
    rule = (
        f"probability that a run of {method} {word} a run of {' and of '.join(others)}, mean over tasks, "
        "whole interval above 0.5"
    )
    verdicts = []
    evidence = []
    for other in others:
        pairs = _pairs(study, (method, other), algo)
        if not pairs:
            verdicts.append(UNKNOWN)
            evidence.append(f"Against {other}: no task has {LEAST_SEEDS} seeds of {method} and {other}")
            continue
        interval, words = _compared(pairs, worse)
        against = decided(claim, rule, f"Against {other}: {words}", [interval], 0.5, pairs)
        verdicts.append(against.verdict)
        evidence.append(against.evidence)
    # Each opponent must be beaten, and one that is not decides it.
    together = next(one for one in (FAILS, UNKNOWN, HOLDS) if one in verdicts)
    return Finding(claim, rule, ". ".join(evidence), together)


def _compared(pairs: Sequence[tuple[Cell, Cell]], worse: bool = False) -> tuple[Interval, str]:
    """Probability that a run of the first cells beats one of the second, or loses to it, and what is said of it.

    Of policies made of the same trainings the shares that they keep are compared, else the returns themselves.
    """
    ours, others = zip(*pairs, strict=True)
    first = [cell.normalized_return for cell in ours]
    second = [cell.normalized_return for cell in others]
    shares = " and ".join(percent(interquartile_mean(np.concatenate(side))) for side in (first, second))
    words = f"return kept (interquartile mean) {shares}"
    if any(one.trained_apart != other.trained_apart for one, other in pairs):
        first = [np.array(cell.values("return_mean")) for cell in ours]
        second = [np.array(cell.values("return_mean")) for cell in others]
    else:
        differences = [_seed_by_seed(one, other) for one, other in pairs]
        if all(map(len, differences)):
            words += f", mean difference seed by seed {show(mean_of_groups(differences))}"
    interval = improvement(second, first) if worse else improvement(first, second)
    return interval, f"{show(interval)}; {words}; {size(pairs)}"


def _seed_by_seed(cell: Cell, other: Cell) -> FloatVector:
    """What the policies of a cell keep more than another's, of the seeds that both have."""
    theirs = other.kept_by_seed
    return np.array([share - theirs[seed] for seed, share in cell.kept_by_seed.items() if seed in theirs], np.float64)


def _no_time_gain(compression: str, pairs: Sequence[tuple[Cell, Cell]], way: str) -> Finding:
    """The paper's claim, by what runs the policies: it timed ONNX Runtime alone, with the simulator in it."""
    claim = f"{compression} saves no inference time, {way}"
    rule = f"time of an action {way} over fp32's, mean over tasks and methods timed so, whole interval not below 1"
    return _ratio_claim(pairs, claim, rule, WAYS[way], lambda ratio: ratio)


def _no_energy_gain(study: Study) -> Finding:
    claim = "Quantisation saves no energy"
    rule = "joules per action over fp32's, mean over tasks and methods, whole interval not below 1"
    return _ratio_claim(_quantized_pairs(study), claim, rule, "energy.joules_per_1000_actions", lambda ratio: ratio)


def _memory(study: Study) -> Finding:
    claim = "Quantisation changes the memory of the process by about 1 %"
    rule = "resident memory of the evaluating process over fp32's, mean over tasks and methods, within 2 % of 1"
    pairs = _quantized_pairs(study)
    return _ratio_claim(pairs, claim, rule, "paper.process_rss_bytes", lambda ratio: 1.02 - abs(ratio - 1))


def _quantized_pairs(study: Study) -> list[tuple[Cell, Cell]]:
    """(fp32, quantised) of every task and method."""
    pairs = []
    for method in QUANTIZED[1:]:
        pairs += _pairs(study, ("fp32", method))
    return pairs


def _pruned_pairs(study: Study) -> list[tuple[Cell, Cell]]:
    """(fp32, pruned) of every task, norm and ratio."""
    pairs = []
    for task, norm in itertools.product(study.tasks, (1, 2)):
        for cell in study.pruned(task, norm).values():
            fp32 = study.cell(task, "fp32")
            if fp32 is not None and has_enough_seeds(fp32) and has_enough_seeds(cell):
                pairs.append((fp32, cell))
    return pairs


def _ratio_claim(
    pairs: Sequence[tuple[Cell, Cell]], claim: str, rule: str, name: str, score: Callable[[float], float]
) -> Finding:
    """`score` of a ratio to fp32 is above 1 where it speaks for the claim; 1 is for it too."""
    if not pairs:
        return Finding(claim, rule, f"no task has {LEAST_SEEDS} seeds of fp32 and of a compressed policy", UNKNOWN)
    found = [(pair, np.array(over_fp32(pair[1], pair[0], name))) for pair in pairs]
    measured = [(pair, ratios) for pair, ratios in found if len(ratios)]
    if not measured:
        return Finding(claim, rule, "not measured (measurement.json says why)", UNKNOWN)
    interval = mean_of_groups([ratios for _, ratios in measured])
    scores = [score(ratio) for ratio in (interval.low, interval.value, interval.high)]
    scored = Interval(scores[1], min(scores), max(scores))
    evidence = f"ratio {show(interval)}; {rests_on(len(measured), [len(ratios) for _, ratios in measured])}"
    return decided(claim, rule, evidence, [scored], 1 - 1e-9, [pair for pair, _ in measured])


def _l2_better(study: Study) -> Finding:
    claim = "Pruning by L2 is better than by L1"
    rule = (
        "share of the ratios at which the policy pruned by L2 beats that of the same seed by L1, a tie counting half, "
        "mean over seeds and tasks, whole interval above 0.5"
    )
    pairs = []
    shares = []
    for task in study.tasks:
        l1 = study.pruned(task, 1)
        l2 = study.pruned(task, 2)
        both = [(l2[ratio], l1[ratio]) for ratio in l2 if ratio in l1]
        both = [pair for pair in both if has_enough_seeds(pair[0]) and has_enough_seeds(pair[1])]
        # The ratios of a seed stand or fall together: a seed counts once.
        wins: dict[int, list[float]] = defaultdict(list)
        for better, other in both:
            returns = dict(zip(other.seeds, other.values("return_mean"), strict=True))
            for seed, value in zip(better.seeds, better.values("return_mean"), strict=True):
                if seed in returns:
                    wins[seed].append(float((np.sign(value - returns[seed]) + 1) / 2))
        if wins:
            pairs += both
            shares.append(np.array([np.mean(of_seed) for of_seed in wins.values()]))
    if not pairs:
        return Finding(claim, rule, f"no ratio was pruned both ways with {LEAST_SEEDS} seeds", UNKNOWN)
    interval = mean_of_groups(shares)
    return decided(claim, rule, f"{show(interval)}; {size(pairs)}", [interval], 0.5, pairs)


def _ten_percent(study: Study) -> Finding:
    claim = "Pruning 10 % by L2 is safe"
    rule = f"return kept, mean over tasks, whole interval above {percent(KEEPS, 0)}"
    cells = []
    for task in study.tasks:
        cell = study.pruned(task, 2).get(0.1)
        if cell is not None and has_enough_seeds(cell):
            cells.append(cell)
    if not cells:
        return Finding(claim, rule, f"no policy of {LEAST_SEEDS} seeds was pruned by 10 %", UNKNOWN)
    interval = mean_of_groups([cell.normalized_return for cell in cells])
    keeping = sum(at_least(float(np.mean(cell.normalized_return)), KEEPS) for cell in cells)
    evidence = (
        f"{show(interval)}; {keeping} of {len(cells)} tasks keep {percent(KEEPS, 0)}; {size([[c] for c in cells])}"
    )
    return decided(claim, rule, evidence, [interval], KEEPS, [[cell] for cell in cells])


def _lottery_ticket(study: Study) -> Finding:
    claim = "No policy pruned by more than half keeps its return"
    rule = f"no task and norm keeps {percent(KEEPS, 0)} at a ratio above 50 %, by the mean over seeds"
    cells = []
    for task, norm in itertools.product(study.tasks, (1, 2)):
        for ratio, cell in study.pruned(task, norm).items():
            if ratio > 0.5 and has_enough_seeds(cell):
                cells.append(cell)
    if not cells:
        return Finding(claim, rule, f"no policy of {LEAST_SEEDS} seeds was pruned by more than half", UNKNOWN)
    tickets = [cell for cell in cells if at_least(float(np.mean(cell.normalized_return)), KEEPS)]
    names = ", ".join(f"{cell.task.algo} {cell.task.env_id} {cell.variant}" for cell in tickets[:4])
    named = f"{len(tickets)} of {len(cells)} cells keep it" + (f": {names}" if names else "")
    evidence = f"{named}; {size([[cell] for cell in cells])}"
    if not has_enough_tasks(cells):
        return Finding(claim, rule, evidence, UNKNOWN)
    return Finding(claim, rule, evidence, FAILS if tickets else HOLDS)


def _pairs(study: Study, methods: tuple[str, str], algo: str | None = None) -> list[tuple[Cell, Cell]]:
    """The cells of two methods on each task that has both."""
    pairs = []
    for task in study.tasks:
        first, second = (study.cell(task, method) for method in methods)
        if first is None or second is None or algo not in (None, task.algo):
            continue
        if has_enough_seeds(first) and has_enough_seeds(second):
            pairs.append((first, second))
    return pairs


def show(interval: Interval) -> str:
    """A figure and its interval."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def size(groups: Sequence[Sequence[Cell]], name: str = "return_mean") -> str:
    """How much an interval of a value rests on."""
    return rests_on(len(groups), [len(cell.values(name)) for cell in itertools.chain.from_iterable(groups)])


def rests_on(comparisons: int, seeds: Sequence[int]) -> str:
    """A number of comparisons, and the fewest and the most seeds of them."""
    return f"{counted(comparisons, 'comparison')}, {fewest_to_most(seeds)} seeds each"
