"""The index of a study: what it says is what the files say, and nothing needs it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlc.runs.find import list_runs
from rlc.runs.index import INDEX_FILE, outlines
from rlc.runs.outline import read_outline
from rlc.runs.planned import PLANNED_FILE, not_begun, note_planned
from rlc.runs.stored import StoredRun, load_run
from rlc.status import status
from tests.helpers import ROOT, as_run

STUDY = "fixtures"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    monkeypatch.chdir(tmp_path)
    run = as_run("trpo-halfcheetah", study=STUDY)
    found = load_run(run.path)
    time.sleep(0.05)  # longer than a tick of the file system's clock: changes of this moment are not indexed
    return found


def index(run: StoredRun) -> Path:
    return Path("outputs", run.settings.study, INDEX_FILE)


def test_outlines_are_those_of_the_files(run: StoredRun) -> None:
    first = outlines(STUDY)
    assert first == [read_outline(run.path, run.who)]
    assert index(run).is_file()
    assert outlines(STUDY) == first
    assert first[0].finished()
    assert first[0].return_mean == run.finished_result().return_mean
    assert first[0].fingerprints() == run.fingerprints()
    assert [found.path for found in list_runs(STUDY)] == [run.path]


@pytest.mark.parametrize("name", ["status.json", "result.json", "artifact/policy.onnx", "artifact/policy.json"])
def test_a_change_of_the_same_size_and_time_is_seen(run: StoredRun, name: str) -> None:
    assert outlines(STUDY)[0].finished()
    path = run.path / name
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=times)
    assert not outlines(STUDY)[0].finished()


def test_a_change_of_settings_is_seen(run: StoredRun, capsys: pytest.CaptureFixture[str]) -> None:
    outlines(STUDY)
    (run.path / "config.yaml").write_text("settings: {}\n")
    assert outlines(STUDY) == []
    assert "holds no run that can be read" in capsys.readouterr().err
    shutil.rmtree(run.path)
    assert outlines(STUDY) == []
    assert json.loads(index(run).read_bytes().partition(b"\n")[2])["entries"] == {}


@pytest.mark.parametrize("damage", [b"", b"{}", b"0" * 64 + b"\n{}", None])
def test_a_torn_index_is_made_again_without_a_word(
    run: StoredRun, damage: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = outlines(STUDY)
    whole = index(run).read_bytes()
    index(run).write_bytes(whole[:-20] if damage is None else damage)
    assert outlines(STUDY) == expected
    assert index(run).read_bytes() == whole
    assert capsys.readouterr().err == ""


def test_a_changed_number_in_the_index_is_not_believed(run: StoredRun) -> None:
    expected = outlines(STUDY)
    number = str(expected[0].return_mean).encode()
    assert number in index(run).read_bytes()
    index(run).write_bytes(index(run).read_bytes().replace(number, b"9" * len(number)))
    assert outlines(STUDY) == expected


def test_without_a_writable_place_there_is_no_index(run: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    index(run).mkdir(parents=True)
    assert outlines(STUDY)[0].finished()
    index(run).rmdir()
    monkeypatch.setattr("rlc.runs.index._clock", lambda _: None)
    assert outlines(STUDY)[0].finished()
    assert not index(run).exists()


def test_files_that_changed_just_now_are_not_indexed(run: StoredRun) -> None:
    ahead = run.path.stat().st_mtime + 3600
    os.utime(run.path / "result.json", (ahead, ahead))
    assert outlines(STUDY)[0].finished()
    assert not index(run).exists()


def test_another_version_of_the_code_makes_the_index_again(run: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    outlines(STUDY)
    monkeypatch.setattr("rlc.runs.index._code", lambda: "other")
    outlines(STUDY)
    assert b'"code":"other"' in index(run).read_bytes()


def test_status_of_an_indexed_study_imports_no_torch(run: StoredRun) -> None:
    outlines(STUDY)
    code = (
        "import sys; from rlc.status import status; status(['study=fixtures']); "
        "print(sorted({'torch', 'hydra', 'gymnasium'} & sys.modules.keys()))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-2:] == ["1 run: 1 done", "[]"]
    assert run.name in found.stdout


def test_planned_runs_are_not_begun_until_they_have_a_directory(
    run: StoredRun, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = outlines(STUDY)[0]
    later = replace(outline, path=run.path.with_name("seed7"), who=replace(outline.who, seed=7))
    note_planned([run, later])
    note_planned([run])
    assert [found.who for found in not_begun(STUDY)] == [later.who]
    status([STUDY])
    assert "2 runs: 1 done, 1 not begun" in capsys.readouterr().out
    later.path.mkdir()
    assert not_begun(STUDY) == []
    Path("outputs", STUDY, PLANNED_FILE).write_text('{"runs": {"a": 1}}')
    assert not_begun(STUDY) == []


def test_many_runs_of_a_setting_share_a_line(
    run: StoredRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outline = outlines(STUDY)[0]
    seeds = [
        replace(outline, path=run.path.with_name(f"seed{k}"), who=replace(outline.who, seed=k), prints={})
        for k in range(3)
    ]
    failed = replace(seeds[2], whole=False)
    monkeypatch.setattr("rlc.status.outlines", lambda _: [*seeds[:2], failed])
    monkeypatch.setattr("rlc.status.MOST_LINES", 2)
    status([STUDY])
    shown = capsys.readouterr().out
    assert re.search(rf"2 seeds +done +mean {outline.return_mean:.1f}", shown)
    assert "seed 2" in shown
    assert "3 runs: 2 done, 1 failed" in shown
