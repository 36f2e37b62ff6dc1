"""Progress without a terminal: a line now and then; milestones of evaluations and metrics."""

import pytest

from rlc.pipeline.monitor import Schedule
from rlc.pipeline.progress import LINES, TrainingProgress


def test_plain_lines_are_few_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress("sac Hopper-v4", 1_000_000) as progress:
        for step in range(50, 1_000_001, 50):
            progress.update(step, 12.34 if step > 500_000 else None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == LINES
    assert lines[0].startswith("sac Hopper-v4: 50000/1000000 steps, ")
    assert "return -, " in lines[0]
    assert "return 12.3, 0:00:00 left" in lines[-1]


def test_time_left_may_exceed_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress("x", 100)
    progress.since -= 100_000
    progress.update(50, None)
    assert "1 day, 3:46:40 left" in capsys.readouterr().out


def test_a_resumed_training_counts_its_own_steps(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress("x", 100, step=50)
    progress.since -= 1000
    progress.update(52, None)
    assert capsys.readouterr().out == ""
    progress.update(60, None)
    assert "60/100 steps, 0 steps/s, return -, 1:06:40 left" in capsys.readouterr().out


def test_milestones_are_passed_once_each_and_the_last_is_the_end() -> None:
    milestones = Schedule(1000, 4)
    assert [step for step in range(0, 1001, 30) if milestones.due(step)] == [270, 510, 750]
    assert milestones.due(1000)
    assert not milestones.due(1000)
    assert not Schedule(1000, 0).due(1000)


def test_milestones_skipped_in_one_go_count_once() -> None:
    milestones = Schedule(100, 10)
    assert milestones.due(55)
    assert not milestones.due(59)
    assert milestones.due(60)
