"""Help, the preview of a command, and paths without a key."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlc.cli import positional
from rlc.comments import settings
from rlc.datafiles import CONF
from rlc.messages import counted
from rlc.train import plan_and_run
from rlc.usage import asked_for, usage
from tests.helpers import ROOT

COMMANDS = (
    "train",
    "compress",
    "evaluate",
    "export",
    "measure",
    "report",
    "dashboard",
    "status",
    "pack",
    "unpack",
    "zoo",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_every_setting(command: str) -> None:
    text = usage(command, [])
    assert text.count(f"  python -m rlc.{command} ") >= 3
    words = " ".join(text.split())
    for setting in settings(CONF / f"{command}.yaml"):
        assert f" {setting.key}" in words
        assert setting.meaning
        assert " ".join(setting.meaning.split()) in words


def test_help_knows_what_is_chosen_beside_it() -> None:
    text = usage("train", ["+algo=sac", "+compress=prune_qat", "+algo=../../x", "--help"])
    assert "algo.alpha=auto (by environment)" in text
    assert "Others: as of +compress=prune_l2." in text


def test_help_is_for_commands_of_rlc_alone() -> None:
    assert asked_for(["python", "-m", "rlc.status", "-h"]) == "status"
    assert asked_for(["python", "-m", "rlc.status"]) is None
    assert asked_for(["python", "-m", "pytest", "--help"]) is None
    assert asked_for(["python", "-m", "rlc.grid.launch", "--help"]) is None
    assert asked_for(["python", "tool.py", "--help"]) is None


def test_help_imports_nothing_slow() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "rlc.report", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("Write tables and figures of a study")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "hydra", "omegaconf", "gymnasium", "rich", "pydantic"}


def test_a_word_without_a_key_is_the_path() -> None:
    assert positional(["outputs/x", "to=y"], "run") == ["run=outputs/x", "to=y"]
    assert positional(["to=y", "outputs/x"], "run") == ["to=y", "run=outputs/x"]
    assert positional(["--json", "run=x"], "run") == ["--json", "run=x"]
    assert positional(["a", "b"], "run") == ["run=a", "b"]


def test_a_dry_run_shows_everything_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_and_run(["+algo=sac", "+compress=fp32,ptsq", "env=hopper", "seed=0,1", "-m", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for label in ("fp32", "ptsq"):
        for seed in (0, 1):
            assert f"outputs/default/Hopper-v4/sac/{label}/seed{seed} " in shown
    assert "4 jobs, 4 runs, 0 of them finished already; about" in shown
    assert shown.endswith("nothing was done\n")
    assert list(tmp_path.iterdir()) == []


def test_counts_have_their_grammar() -> None:
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
