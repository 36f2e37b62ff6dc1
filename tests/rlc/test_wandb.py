"""What W&B is told, by its real offline client: one whole file for each run, whatever happened to it."""

import json
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from rlc.config.plan import make_plan
from rlc.dashboard import dashboard
from rlc.pipeline import tracking
from rlc.pipeline.job import run_job
from rlc.pipeline.tracking import BYTES, MICROSECONDS, RETURN_KEPT, SIZE_RATIO, Tracker, compared
from rlc.reporting.dashboard import COLUMNS, view
from rlc.runs.records import MeasuredTimes, Measurement
from rlc.runs.run import runs_of
from rlc.runs.stored import EVALUATION, load_run, read_metrics
from tests.helpers import as_run, make_result, run_until

QUICK = "+algo=sac env=hopper seed=3 total_steps=600 checkpoint_every=200 algo.learning_starts=200"
FEW = "algo.hidden=[16] algo.batch_size=16 algo.actor_lr=0.001 eval.episodes=1 eval.evaluations=3 wandb.mode=offline"
LINE = f"{QUICK} {FEW}"


def logged(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KB, in which long records lie in parts."""
    at = 7  # W&B's own header
    parts = b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        if kind == 0:
            return
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


class Told:
    """What the one offline file of a run directory says."""

    def __init__(self, folder: Path) -> None:
        (self.file,) = folder.glob("wandb/offline-run-*/*.wandb")
        deadline = time.monotonic() + 20
        while not any(b"exit" in kind for kind in self._read()) and time.monotonic() < deadline:
            time.sleep(0.1)  # the client writes a moment after `finish` returned

    def _read(self) -> list[bytes]:
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.run: Any = None
        kinds: list[bytes] = []
        for data in logged(self.file.read_bytes()):
            record = vars(wandb_internal_pb2)["Record"].FromString(data)
            kind = record.WhichOneof("record_type")
            kinds.append(kind.encode())
            if kind == "history":
                row = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                self.history.append({key: json.loads(value) for key, value in row.items()})
            elif kind == "summary":
                for item in record.summary.update:
                    self.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            elif kind == "run":
                self.run = record.run
        return kinds

    @property
    def steps(self) -> list[int]:
        return [row["global_step"] for row in self.history]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path


def test_resuming_and_measuring_neither_split_nor_erase_a_history(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = make_plan(LINE.split()).jobs
    (run,) = runs_of(job)
    run_until(500, job, monkeypatch)
    first = Told(run.path)
    assert first.steps
    run_job(job)
    again = Told(run.path)
    assert again.run.run_id == first.run.run_id
    assert again.file != first.file
    rows = read_metrics(run.path / "metrics.csv")
    assert again.steps == [row["global_step"] for row in rows]
    assert [row["_step"] for row in again.history] == again.steps
    assert [row[EVALUATION] for row in again.history if EVALUATION in row] == [
        row[EVALUATION] for row in rows if EVALUATION in row
    ]
    tracker = Tracker(load_run(run.path))
    tracker.measured(Measurement(infer=MeasuredTimes(onnx_run_p50_us=7.5, native_reason=None)))
    tracker.finish()
    measured = Told(run.path)
    assert measured.run.run_id == first.run.run_id
    assert measured.steps == again.steps
    assert measured.summary[MICROSECONDS] == 7.5
    assert measured.summary[SIZE_RATIO] == again.summary[SIZE_RATIO] == 1
    result = run.finished_result()
    assert measured.summary["return_mean"] == result.return_mean
    name = measured.run.display_name
    assert name.startswith("sac fp32 ")
    assert name.endswith(" Hopper-v4 seed 3")
    assert "~" not in name


def test_a_run_that_is_done_again_is_another_run(home: Path) -> None:
    (job,) = make_plan(LINE.split()).jobs
    (run,) = runs_of(job)
    first = tracking._id(run)
    run.path.mkdir(parents=True)
    (run.path / "wandb/offline-run-20260101_000000-abc").mkdir(parents=True)
    assert tracking._id(run) == "abc"
    run.archive()
    assert tracking._id(run) not in (first, "abc")


def test_derived_runs_are_compared_by_numbers(home: Path) -> None:
    run = as_run("sac-hopper", study="fixtures")
    result = run.finished_result()
    assert compared(run, result) == {RETURN_KEPT: 1.0, BYTES: float(result.onnx_file_bytes), SIZE_RATIO: 1.0}
    (derived,) = runs_of(make_plan(["+algo=sac", "env=hopper", "+compress=ptdq"]).jobs[0])
    half = make_result(return_mean=60.0, fp32_return_mean=100.0, random_return_mean=20.0, onnx_file_bytes=500)
    derived._baseline = run
    assert compared(derived, half) == {RETURN_KEPT: 0.5, BYTES: 500.0, SIZE_RATIO: result.onnx_file_bytes / 500}
    hopeless = make_result(return_mean=60.0, fp32_return_mean=10.0, random_return_mean=20.0)
    assert compared(derived, hopeless)[RETURN_KEPT] is None


def test_the_dashboard_shows_what_runs_log(home: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="install the extra dashboard")
    run = as_run("sac-hopper", study="fixtures", wandb={"mode": "offline", "project": "p", "entity": None})
    tracker = Tracker(run)
    tracker.finished(run.finished_result())
    tracker.measured(Measurement(infer=MeasuredTimes(onnx_run_p50_us=7.5, native_p50_us=1.0)))
    tracker.finish()
    told = Told(run.path)
    made = view("fixtures", "Hopper-v4", "me", "p")
    text = made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    assert set(re.findall(r'"summary:([^"]+)"', text)) == set(COLUMNS)
    assert set(COLUMNS) <= set(told.summary)
    keys = {item.key for item in told.run.config.update}
    assert {"study", "policy", "environment", "algorithm"} <= keys
    for word in (
        '"metrics":["eval/return_mean"]',
        '"groupBy":"policy.value"',
        '"xAxis":"global_step"',
        '"val":"costs"',
    ):
        assert word in text
    assert [section.name for section in made.sections][:2] == ["Learning curves", "Return kept against cost"]


@pytest.mark.parametrize("words", [["study=none"], ["default"]])
def test_a_dashboard_that_cannot_be_made_is_one_line(
    words: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    pytest.importorskip("wandb_workspaces", reason="install the extra dashboard")
    as_run("sac-hopper", study="default")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(home))
    line = refusal(dashboard, *words)
    assert ("nobody is logged in on this machine; log in with `wandb login`" in line) == (words == ["default"])
    shutil.rmtree(home / "outputs")
