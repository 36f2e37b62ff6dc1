"""The promise of identity: runs of a committed study are found by every later version.

`data/records.json` holds what `config.yaml` said of runs when the first study was committed (November 2026). A change
of layout or names must leave these tests as they are: a setting that gets another name is hashed under its old one, and
a setting that is new is left out of the hash where it has the value that all runs before it had.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from rlc.config.job import Job
from rlc.config.plan import make_plan
from rlc.runs.identity import identity, training_identity
from rlc.runs.run import Run
from rlc.runs.stored import stored_settings
from tests.helpers import DATA
from trainers.registry import AGENTS

RECORDS: list[dict[str, Any]] = json.loads((DATA / "records.json").read_text())


def stored_job(record: dict[str, Any]) -> Job:
    settings = stored_settings(record["config"])
    return Job(settings, settings, auto=tuple(record["config"]["auto"]))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["path"])
def test_a_record_keeps_its_identity(record: dict[str, Any]) -> None:
    job = stored_job(record)
    assert identity(job.asked) == record["config"]["identity"]
    assert training_identity(job.asked) == record["training_identity"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["path"])
def test_a_record_keeps_its_directory(record: dict[str, Any]) -> None:
    """But for the hash, which names what differs from the defaults: those may become better ones."""
    run = Run(stored_job(record), 3)
    label = record["config"]["settings"]["compress"]["method"]
    assert run.path.parent.parent == Path(record["path"]).parent.parent
    assert run.path.name == Path(record["path"]).name
    assert run.label.startswith(label)
    assert Path(record["path"]).parent.name.partition("~")[0] == run.label.partition("~")[0]


def test_the_records_are_of_different_runs() -> None:
    assert len({record["config"]["identity"] for record in RECORDS}) == len(RECORDS)


def test_a_record_is_read_under_the_names_of_now() -> None:
    (record,) = (record for record in RECORDS if record["path"] == "outputs/default/HalfCheetah-v4/trpo/fp32/seed3")
    assert record["config"]["settings"]["eval"]["along"] == 20
    assert stored_settings(record["config"]).eval.evaluations == 20


@pytest.mark.parametrize("method", ["qat", "ptsq", "prune_qat", "prune_l2"])
def test_bits_count_from_the_first_that_goes(method: str) -> None:
    """Eight was there before the setting; what differs from it stands in the label."""

    def run(bits: str) -> Run:
        (job,) = make_plan(f"+algo=sac +compress={method} {bits}".split()).jobs
        return Run(job, 0)

    plain = run("")
    assert run("compress.weight_bits=8 compress.input_bits=8").identity == plain.identity
    if method == "prune_l2":
        return
    changes = ("compress.weight_bits=4", "compress.activation_bits=4", "compress.input_bits=6")
    assert len({run(bits).identity for bits in ("", *changes)}) == 4
    labels = [run(bits).label for bits in changes]
    expected = {
        "qat": ["qat-w4a8", "qat-w8a4", "qat-w8a8i6"],
        "ptsq": ["ptsq-w4a8", "ptsq-w8a4", "ptsq-w8a8i6"],
        "prune_qat": ["prune_qat-0.50-w4", "prune_qat-0.50-a4", "prune_qat-0.50-i6"],
    }
    assert labels == expected[method]


@pytest.mark.parametrize("algo", AGENTS)
def test_an_actor_counts_from_where_it_is_not_as_wide_as_the_critics(algo: str) -> None:
    """No run before the setting had another one."""

    def run(words: str) -> Run:
        (job,) = make_plan(f"+algo={algo} {words}".split()).jobs
        return Run(job, 0)

    plain, small = run(""), run("algo.actor_hidden=[16,16]")
    for words in ("algo.actor_hidden=null", f"algo.actor_hidden={plain.settings.algo.hidden}".replace(" ", "")):
        same = run(words)
        assert (same.label, same.identity, same.training_identity) == ("fp32", plain.identity, plain.training_identity)
    assert len({each.identity for each in (plain, small, run("algo.actor_hidden=[16]"))}) == 3
    assert small.label.startswith("fp32~")
    derived = run("algo.actor_hidden=[16,16] +compress=ptsq")
    assert derived.training_identity == small.training_identity != plain.training_identity


def test_ratio_and_bits_stand_in_a_label_together() -> None:
    line = "+algo=sac +compress=prune_qat compress.ratio=0.7 compress.weight_bits=2 compress.activation_bits=4"
    (job,) = make_plan(line.split()).jobs
    assert Run(job, 0).label == "prune_qat-0.70-w2a4"
