"""Fixtures of all tests: one torch thread, a study and its pack, the one line of a refused command."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlc.cli import run_command
from rlc.config.plan import make_plan
from rlc.pack import pack
from rlc.pipeline.job import run_job
from rlc.runs.files import OUTPUTS
from tests.packed import DERIVED, LINES, MEASURED, PACK, runs_of, tree
from tests.packed import SAC as SAC_LINE
from tests.studies import Add, writer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def study_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with trainings of two algorithms, what derives from them, and the pack of it all."""
    home = tmp_path_factory.mktemp("study")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for line in LINES:
            run_job(make_plan(line.split()).jobs[0])
            assert all(run.finished() for run in runs_of(line)), line
        runs_of(f"{SAC_LINE} {DERIVED[0]}")[0].write_measurement(MEASURED)
        pack(["study=paper"])
    return home


@pytest.fixture
def study_clone(study_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that has nothing but the pack, and in which nothing can be trained."""
    shutil.copytree(study_home / PACK, tmp_path / PACK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlc.pipeline.training.train", None)
    return tmp_path


@pytest.fixture
def study_copy(study_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study with its runs and its pack, to be changed."""
    shutil.copytree(study_home / OUTPUTS, tmp_path / OUTPUTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line of a command that ends with code 2 and has written nothing."""

    def refuse(command: Callable[[list[str]], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        before = tree(Path())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
        assert tree(Path()) == before
        return shown.err

    return refuse


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Writes the result of a run that never was."""
    return writer(tmp_path)
