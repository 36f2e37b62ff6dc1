"""The search for the smallest policy: where it stops, what it writes, what it refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from compression.artifact import check_artifact
from measure.returns import Returns
from rlc.compress import compress
from rlc.config.compress import PruneSettings
from rlc.config.plan import make_plan
from rlc.pipeline.smallest import RATIOS, Candidate, Search
from tests.helpers import POLICIES, spec
from trainers.errors import UserError
from trainers.policy import Policy

FP32 = Returns(tuple(np.linspace(90, 110, 20)), (1000,) * 20)


def walk(keeps: dict[tuple[float, int], float], target: float = 0.97) -> Search:
    """A search in a world where settings (ratio, bits) keep a known share of the return, others half of it."""
    (job,) = make_plan(["+algo=sac", "+compress=prune_qat"]).jobs
    assert isinstance(job.settings.compress, PruneSettings)
    made: dict[int, tuple[float, int]] = {}

    def make(settings: PruneSettings) -> Policy:
        policy = Policy(spec(), [nn.Linear(5, 3)])
        made[id(policy)] = (settings.ratio, settings.weight_bits)
        kept.append(policy)
        return policy

    def score(policy: Policy) -> Returns:
        share = keeps.get(made[id(policy)], 0.5)
        return Returns(tuple(share * r for r in FP32.returns), FP32.lengths)

    kept: list[Policy] = []
    told: list[Candidate] = []
    search = Search(job.settings.compress, target, FP32, make, score, told.append)
    search.run()
    assert told == search.tried
    return search


def test_units_go_first_then_bits_until_one_fails() -> None:
    search = walk({(0.0, 4): 1.0, (0.5, 4): 0.99, (0.7, 4): 0.98, (0.7, 3): 0.98})
    assert [(c.ratio, c.weight_bits) for c in search.tried] == [
        (0, 4),
        (0.5, 4),
        (0.7, 4),
        (0.8, 4),
        (0.75, 4),
        (0.7, 3),
        (0.7, 2),
    ]
    assert [c.passes for c in search.tried] == [True, True, True, False, False, True, False]
    assert search.best is not None
    assert search.best[0].label == "prune_qat-0.70-w3"


def test_half_way_back_from_a_ratio_that_failed_may_pass() -> None:
    search = walk({(0.0, 4): 1.0, (0.5, 4): 0.99, (0.6, 4): 0.98})
    assert [(c.ratio, c.weight_bits) for c in search.tried] == [(0, 4), (0.5, 4), (0.7, 4), (0.6, 4), (0.6, 3)]
    assert search.best is not None
    assert search.best[0].label == "prune_qat-0.60-w4"


def test_all_ratios_may_pass_and_none_may() -> None:
    assert [c.ratio for c in walk({(ratio, 4): 1.0 for ratio in RATIOS}).tried] == [*RATIOS, RATIOS[-1]]
    search = walk({})
    assert (len(search.tried), search.best) == (1, None)


def test_a_share_that_is_uncertain_does_not_pass() -> None:
    """Mean 0.98, but one episode in twenty falls: the interval reaches below 0.97."""
    (job,) = make_plan(["+algo=sac", "+compress=prune_qat"]).jobs
    assert isinstance(job.settings.compress, PruneSettings)
    falls = Returns((*(1.02 * r for r in FP32.returns[:-1]), 20.0), FP32.lengths)
    policy = Policy(spec(), [nn.Linear(5, 3)])
    search = Search(job.settings.compress, 0.97, FP32, lambda _: policy, lambda _: falls, lambda _: None)
    search.run()
    (tried,) = search.tried
    assert tried.share > 0.97 > tried.share_low
    assert not tried.passes


def test_the_command_writes_the_policy_its_path_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = "compress.distill.steps=20 compress.distill.states=100 compress.distill.rounds=0 eval.episodes=2"
    line = f"policy={POLICIES / 'ppo-hopper'} +compress=prune_qat target_return=0.001 to={tmp_path / 's'} {few}"
    compress(line.split())
    contract = check_artifact(tmp_path / "s")
    rows = list(csv.DictReader((tmp_path / "s" / "search.csv").read_text().splitlines()))
    passed = [row for row in rows if row["passes"] == "True"]
    assert int(passed[-1]["tensor_bytes"]) == contract["low_bit"]["weight_bytes"]
    assert (tmp_path / "s" / "search.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert "prune_qat-0.00-w4: " in said
    assert said.count("passes") == len(passed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("+compress=prune_qat target_return=97", "target_return=97: allowed: a share of the return"),
        ("+compress=prune_qat target_return=x", "target_return=x: allowed: a share"),
        ("+compress=ptsq target_return=0.9", "target_return=0.9: allowed with \\+compress=prune_qat, not ptsq"),
        ("+compress=prune_qat target_return=0.9 compress.ratio=0.2", "compress.ratio=0.2: target_return=0.9 tries"),
        ("+compress=prune_qat target_return=0.9 eval.episodes=1", "eval.episodes=1: target_return needs pairs"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compress(f"policy={POLICIES / 'ppo-hopper'} {arguments}".split())
