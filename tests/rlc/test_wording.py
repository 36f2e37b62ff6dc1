"""Names that people can read."""

import pytest
from rich.table import Table

from rlc.config.plan import make_plan
from rlc.reporting.screen import print_table
from rlc.runs.run import Run
from rlc.runs.wording import short, without_shared, worded


def test_what_differs_stands_in_the_place_of_a_hash() -> None:
    (job,) = make_plan(["+algo=sac", "algo.actor_lr=3e-4", "total_steps=50_000", "study=x", "seed=4"]).jobs
    run = Run(job, 4)
    assert run.label.startswith("fp32~")
    assert run.words == "fp32 actor_lr=0.0003 steps=50k"
    assert Run(make_plan(["+algo=sac"]).jobs[0], 0).words == "fp32"


def test_a_hash_stays_where_nothing_is_known_to_differ() -> None:
    assert worded("qat~abc123", {}) == "qat~abc123"


def test_values_are_short() -> None:
    found = [short(value) for value in (1_000_000, 1500, 1234, 0.5, True, None, "tanh", [64, 64])]
    assert found == ["1M", "1.5k", "1234", "0.5", "true", "null", "tanh", "[64,64]"]


def test_a_table_says_what_differs_inside_it() -> None:
    assert without_shared(["fp32 lr=1 steps=50k", "qat lr=2 steps=50k"]) == ["fp32 lr=1", "qat lr=2"]
    assert without_shared(["fp32 lr=1"]) == ["fp32"]
    lists = [f"fp32 hidden={short(widths)}" for widths in ([16, 16], [32, 16])]
    assert without_shared(lists) == lists
    assert without_shared(lists[:1]) == ["fp32"]


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[red]policy")
    table.add_row("mine:x:[bold]Robot-v0 [/] [16,16] :smile:")
    print_table(table)
    shown = capsys.readouterr().out
    assert "[red]policy" in shown
    assert "mine:x:[bold]Robot-v0 [/] [16,16] :smile:" in shown
