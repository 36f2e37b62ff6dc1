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
from rlc.runs.identity import identity, training_identity
from rlc.runs.run import Run
from rlc.runs.stored import stored_settings
from tests.helpers import DATA

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
