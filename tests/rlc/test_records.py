"""result.json, status.json and measurement.json: what was written before is read, what is newer is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from measure.returns import Returns, summary
from rlc.config.plan import make_plan
from rlc.packing.packs import read_pack, record_files
from rlc.report import report
from rlc.runs.files import read_record, write_record
from rlc.runs.records import (
    NATIVE_CAME_LATER,
    SCHEMA_VERSION,
    MeasuredEnergy,
    MeasuredReturns,
    MeasuredTimes,
    Measurement,
    PruningRecord,
    RunResult,
    RunStatus,
    VersionedRecord,
)
from rlc.runs.run import Run
from rlc.status import status
from rlc.train import plan_and_run
from rlc.unpack import unpack
from tests.helpers import POLICIES, ROOT, as_run, make_result, make_status
from tests.packed import PACK, RECORDS, change, change_json
from trainers.errors import UserError

STUDIED = ROOT / "outputs" / "paper" / "pack"
OLDER_RESULTS = sorted(POLICIES.glob("*/result.json"))
MEASUREMENT = Measurement(
    machine={"cores": 2},
    load={"busy_percent": 1.0},
    eval=MeasuredReturns(**summary(Returns((1.0, 2.0), (5, 5)), 5, None)),
    infer=MeasuredTimes(onnx_run_p50_us=8.0, torch_eager_p50_us=None, torch_eager_reason="emulated"),
    energy=MeasuredEnergy(source=None, joules_per_1000_actions=None, missing_reason="no counter"),
)
RECORDS_OF_TODAY: list[VersionedRecord] = [make_result(), make_status("identity"), MEASUREMENT]
KINDS = pytest.mark.parametrize("record", RECORDS_OF_TODAY, ids=lambda record: type(record).__name__)


class TestOlderRecords:
    @pytest.mark.parametrize("path", OLDER_RESULTS, ids=lambda path: path.parent.name)
    def test_results_without_a_schema_version_are_read(self, path: Path) -> None:
        data = json.loads(path.read_text())
        assert "schema_version" not in data
        result = read_record(RunResult, path)
        assert result is not None
        assert result.schema_version == SCHEMA_VERSION
        assert result.protocol == "ours"
        assert {name: value for name, value in result.fields().items() if name in data} == data

    def test_the_committed_study_is_read(self) -> None:
        assert record_files(STUDIED)
        runs = read_pack(STUDIED)
        assert len(runs) >= 65
        for run in runs:
            assert run.status().state == "done"
            assert run.result().identity == run.identity
            assert run.result().fields() | {"schema_version": 1} == run.record["result"] | {"schema_version": 1}

    def test_rewriting_one_adds_the_version_and_changes_nothing_else(self, tmp_path: Path) -> None:
        data = json.loads(OLDER_RESULTS[0].read_text()) | {"of_a_removed_feature": [1, 2]}
        path = tmp_path / "result.json"
        path.write_text(json.dumps(data))
        result = read_record(RunResult, path)
        assert result is not None
        write_record(path, result)
        assert json.loads(path.read_text()) == data | {"schema_version": SCHEMA_VERSION}

    def test_a_measurement_from_before_c_says_so_and_is_not_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "measurement.json"
        data = {"schema_version": 1, "infer": {"onnx_run_p50_us": 8.0}, "mem": {"onnx_file_bytes": 100}}
        path.write_text(json.dumps(data))
        measurement = read_record(Measurement, path)
        assert measurement is not None
        assert measurement.value("infer", "native_p50_us") is None
        assert measurement.value("mem", "native_bytes") is None
        assert measurement.infer.native_reason == measurement.mem.native_reason == NATIVE_CAME_LATER
        write_record(path, measurement)
        assert json.loads(path.read_text()) == data

    def test_a_measurement_of_fewer_sections_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "measurement.json"
        path.write_text(json.dumps({"infer": {"onnx_run_p50_us": 8.0}}))
        measurement = read_record(Measurement, path)
        assert measurement is not None
        assert measurement.value("infer", "onnx_run_p50_us") == 8.0
        assert measurement.value("energy", "joules_per_1000_actions") is None


class TestRoundTrip:
    @KINDS
    def test_what_is_written_is_read(self, record: VersionedRecord, tmp_path: Path) -> None:
        path = tmp_path / "record.json"
        write_record(path, record)
        assert read_record(type(record), path) == record
        assert next(iter(json.loads(path.read_text()).items())) == ("schema_version", SCHEMA_VERSION)
        assert list(tmp_path.iterdir()) == [path]  # no temporary file is left

    def test_a_missing_value_keeps_its_reason(self, tmp_path: Path) -> None:
        path = tmp_path / "measurement.json"
        write_record(path, MEASUREMENT)
        data = json.loads(path.read_text())
        assert data["energy"] == {"source": None, "joules_per_1000_actions": None, "missing_reason": "no counter"}
        assert data["infer"]["torch_eager_reason"] == "emulated"

    def test_fields_of_pruning_stand_in_pruned_results_alone(self) -> None:
        assert "widths_before" not in make_result().fields()
        pruned = make_result(**PruningRecord(widths_before=[16, 16]).fields())
        assert pruned.fields()["widths_before"] == [16, 16]


class TestTornRecords:
    @KINDS
    @pytest.mark.parametrize("content", ["", "[]", '{"state": "done"', '{"seed": "zero", "state": 1, "infer": 3}'])
    def test_what_is_not_whole_is_none(self, record: VersionedRecord, content: str, tmp_path: Path) -> None:
        path = tmp_path / "record.json"
        path.write_text(content)
        assert read_record(type(record), path) is None
        assert read_record(type(record), tmp_path / "missing.json") is None

    @pytest.mark.parametrize("key", ["return_mean", "identity", "provenance"])
    def test_a_result_that_lacks_a_part_is_none(self, key: str, tmp_path: Path) -> None:
        path = tmp_path / "result.json"
        fields = make_result().fields()
        del fields[key]
        path.write_text(json.dumps(fields))
        assert read_record(RunResult, path) is None


class TestNewerRecords:
    @KINDS
    def test_one_line_names_file_version_and_what_is_allowed(self, record: VersionedRecord, tmp_path: Path) -> None:
        path = tmp_path / "record.json"
        path.write_text(json.dumps(record.fields() | {"schema_version": SCHEMA_VERSION + 1, "renamed": 1}))
        with pytest.raises(UserError, match=r"record.json: schema_version=2: made by a newer rlc; .* reads up to 1"):
            read_record(type(record), path)

    @pytest.mark.parametrize("name", ["result.json", "status.json"])
    def test_commands_end_with_it(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = as_run("ppo-hopper", study="fixtures")
        change_json(run.path / name, schema_version=2)
        for command in (status, report):
            assert f"{name}: schema_version=2: made by a newer rlc" in refusal(command, "study=fixtures")

    @pytest.mark.parametrize("overwrite", ["", "overwrite=true"])
    @pytest.mark.parametrize("name", ["result.json", "status.json"])
    def test_a_training_is_not_begun_over_it(
        self,
        name: str,
        overwrite: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        line = f"+algo=sac env=hopper wandb.mode=disabled {overwrite}"
        run = Run(make_plan(line.split()).jobs[0], 0)
        run.begin()
        run.finish(make_result(identity=run.identity))
        change_json(run.path / name, schema_version=2)
        before = (run.path / name).read_bytes()
        assert plan_and_run(line.split()) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "schema_version=2" in error
        assert (run.path / name).read_bytes() == before

    @pytest.mark.parametrize("part", ["result", "status"])
    def test_a_pack_of_newer_records_is_refused(
        self, study_clone: Path, refusal: Callable[..., str], part: str
    ) -> None:
        def renew(records: list[dict[str, Any]]) -> None:
            records[0][part]["schema_version"] = 2

        change(RECORDS, renew)
        assert "line 1: schema_version=2: made by a newer rlc" in refusal(unpack, f"from={PACK}")


def test_a_pack_made_before_gives_back_its_bytes(
    study_clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records without the field are unpacked as they are, and are the same runs as those with it."""

    def age(records: list[dict[str, Any]]) -> None:
        for record in records:
            for part in ("result", "status"):
                del record[part]["schema_version"]

    change(RECORDS, age)
    unpack([f"from={PACK}"])
    older = json.loads(gzip.decompress(RECORDS.read_bytes()).decode().splitlines()[0])
    folder = Path("outputs/paper/Pendulum-v1/sac") / older["label"] / f"seed{older['seed']}"
    assert json.loads((folder / "result.json").read_text()) == older["result"]
    assert read_record(RunStatus, folder / "status.json") is not None
    unpack([f"from={PACK}"])
    assert capsys.readouterr().out.endswith("0 runs from outputs/paper/pack, 10 were there\n")
