"""The smallest policy that keeps a share of the return: a walk over pruning ratios and weight bits, large to small."""

import csv
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from compression.lowbit import tensor_bytes
from measure.returns import Returns
from measure.statistics import paired_difference
from rlc.config.compress import PruneSettings
from trainers.policy import Policy

RATIOS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
WEIGHT_BITS = (4, 3, 2)
TABLE = "search.csv"
PICTURE = "search.png"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A policy that the walk came by: its settings, the bytes of its tensors, its share of the fp32 return.

    The share lies between `share_low` and `share_high` with 95 % confidence, by pairs of episodes from the same start
    states.
    """

    label: str
    ratio: float
    weight_bits: int
    tensor_bytes: int
    return_mean: float
    share: float
    share_low: float
    share_high: float
    passes: bool


class Search:
    """A walk that stops going down where a policy no longer keeps `target` times the return of `fp32`.

    A policy passes where all of its share's interval lies at the target or above it. `make` builds the policy of
    settings, `score` plays it from the start states of `fp32`, `tell` is given what was found.
    """

    def __init__(
        self,
        settings: PruneSettings,
        target: float,
        fp32: Returns,
        make: Callable[[PruneSettings], Policy],
        score: Callable[[Policy], Returns],
        tell: Callable[[Candidate], None],
    ) -> None:
        self.settings = settings
        self.target = target
        self.fp32 = fp32
        self.make = make
        self.score = score
        self.tell = tell
        self.tried: list[Candidate] = []
        self.best: tuple[PruneSettings, Policy] | None = None

    def run(self) -> None:
        """Remove units at four bits until a ratio fails, then half way back; then bits, at the largest that passed."""
        self._walk((ratio, WEIGHT_BITS[0]) for ratio in RATIOS)
        if self.best is None:
            return
        if not self.tried[-1].passes:
            self._walk([(round((self.best[0].ratio + self.tried[-1].ratio) / 2, 3), WEIGHT_BITS[0])])
        ratio = self.best[0].ratio
        self._walk((ratio, bits) for bits in WEIGHT_BITS[1:])

    def _walk(self, steps: Iterable[tuple[float, int]]) -> None:
        for ratio, bits in steps:
            settings = self.settings.model_copy(update={"ratio": ratio, "weight_bits": bits})
            policy = self.make(settings)
            found = self._candidate(settings, policy)
            self.tried.append(found)
            self.tell(found)
            if not found.passes:
                return
            self.best = settings, policy

    def _candidate(self, settings: PruneSettings, policy: Policy) -> Candidate:
        returns = self.score(policy)
        difference = paired_difference(np.array(returns.returns), np.array(self.fp32.returns))
        share, low, high = (1 + part / self.fp32.mean for part in (difference.value, difference.low, difference.high))
        return Candidate(
            settings.label,
            settings.ratio,
            settings.weight_bits,
            tensor_bytes(policy),
            returns.mean,
            share,
            low,
            high,
            passes=low >= self.target,
        )


def write_search(folder: Path, tried: Sequence[Candidate], target: float) -> None:
    """The path of a search as a table and as a picture of the share against bytes, in an existing folder."""
    from matplotlib.figure import Figure  # takes a second, which other commands need not wait for

    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Candidate)])
        writer.writeheader()
        for candidate in tried:
            writer.writerow(dataclasses.asdict(candidate))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for candidate in tried:
        below = candidate.share - candidate.share_low
        above = candidate.share_high - candidate.share
        fill = "black" if candidate.passes else "white"
        axes.errorbar(
            candidate.tensor_bytes, candidate.share, [[below], [above]], fmt="o", color="black", markerfacecolor=fill
        )
        axes.annotate(candidate.label, (candidate.tensor_bytes, candidate.share), fontsize=7, rotation=30)
    axes.axhline(target, color="grey", linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("bytes of packed tensors")
    axes.set_ylabel("share of the fp32 return, 95 % interval")
    figure.savefig(folder / PICTURE, dpi=150)
