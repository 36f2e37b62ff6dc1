"""Packs that are joined; damaged and foreign ones, and what does not mix, are refused in one line."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlc.pack import pack
from rlc.packing import packs
from rlc.report import report
from rlc.runs.files import OUTPUTS
from rlc.runs.find import list_runs
from rlc.status import status
from rlc.train import plan_and_run
from rlc.unpack import unpack
from tests.packed import (
    DERIVED,
    PACK,
    RECORDS,
    SAC,
    TRPO,
    Change,
    change,
    change_json,
    contents,
    runs_of,
    tree,
)


class TestMerge:
    def test_packs_of_two_machines(
        self, study_home: Path, study_copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One has seed 0, the other seed 1 and the rest."""
        (first, second) = runs_of(f"{SAC} seed=[0,1]")
        shutil.rmtree(PACK)
        second.path.rename("second")
        pack(["study=paper", "to=a"])
        Path("second").rename(second.path)
        shutil.rmtree(first.path)
        pack(["study=paper", "to=b"])
        shutil.rmtree(OUTPUTS)
        capsys.readouterr()
        unpack(["from=a,b"])
        assert capsys.readouterr().out == "outputs/paper: 10 runs from a,b, 0 were there\n"
        pack(["study=paper", "to=c"])
        assert contents(Path("c")) == contents(study_home / PACK)
        pack(["study=paper", "to=a"])
        assert contents(Path("a")) == contents(study_home / PACK)

    def test_another_name_of_the_study(self, study_clone: Path) -> None:
        unpack([f"from={PACK}", "study=other"])
        assert {run.settings.study for run in list_runs("other")} == {"other"}
        assert len(list_runs("other")) == 10
        assert list_runs("paper") == []

    def test_what_is_there_stays(self, study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (failed,) = runs_of(f"{SAC} +compress=qat")
        change_json(failed.path / "status.json", state="failed")
        before = tree(study_copy)
        unpack([f"from={PACK}"])
        shown = capsys.readouterr()
        assert shown.out == "outputs/paper: 0 runs from outputs/paper/pack, 10 were there\n"
        assert f"{failed.path} stays as it is: it is not finished" in shown.err
        assert tree(study_copy) == before

    def test_packing_again_writes_nothing(self, study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = tree(study_copy)
        pack(["study=paper"])
        assert tree(study_copy) == before
        size = sum(len(content) for content in contents(PACK).values()) / 1e6
        assert f"{PACK}: 10 runs, 4 policies, {size:.2f} MB; wrote 0 files" in capsys.readouterr().out

    def test_a_pack_of_unpacked_runs_is_the_same(self, study_home: Path, study_clone: Path) -> None:
        status(["study=paper"])
        pack(["study=paper", "to=again"])
        assert contents(Path("again")) == contents(study_home / PACK)

    def test_the_later_result_stays_and_runs_of_the_pack_alone(self, study_copy: Path) -> None:
        (old, gone), (again,) = runs_of(f"{SAC} seed=[0,1]"), runs_of(f"{SAC} +compress=qat")
        shutil.rmtree(gone.path)
        for run, moment in ((old, "2001-01-01T00:00:00Z"), (again, "2999-01-01T00:00:00Z")):
            change_json(run.path / "status.json", heartbeat=moment)
            change_json(run.path / "result.json", return_mean=5.0)
        pack(["study=paper"])
        packed = {(run.label, run.seed): run for run in packs.read_pack(PACK)}
        assert packed[old.label, 0].result().return_mean != 5.0
        assert packed[again.label, 0].result().return_mean == 5.0
        assert packed[gone.label, 1].settings.is_fp32
        assert len(packed) == 10

    def test_a_measurement_of_elsewhere_is_not_lost(self, study_copy: Path) -> None:
        (run,) = runs_of(f"{SAC} {DERIVED[0]}")
        (run.path / "measurement.json").unlink()
        before = tree(PACK)
        pack(["study=paper"])
        assert tree(PACK) == before

    def test_a_damaged_agent_is_left_out(self, study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = runs_of(f"{SAC} seed=[0,1]")
        (first.path / "agent.safetensors").write_bytes(b"torn")
        shutil.copy(runs_of(TRPO)[0].path / "agent.safetensors", second.path)
        capsys.readouterr()
        pack(["study=paper", "to=other"])
        shown = capsys.readouterr()
        assert "other: 8 runs, 2 policies" in shown.out
        assert f"rlc: left out: {first.path}: " in shown.err
        assert "does not make its policy" in shown.err

    def test_nothing_to_pack(self, study_clone: Path, refusal: Callable[..., str]) -> None:
        assert "there is no finished run in outputs/nowhere" in refusal(pack, "study=nowhere")
        assert "study: none given" in refusal(pack)
        assert "holds no pack" in refusal(unpack, "from=nowhere")
        assert "from: none given" in refusal(unpack)


class TestRefusals:
    def test_other_settings_in_one_place(self, study_copy: Path, refusal: Callable[..., str]) -> None:
        shutil.copytree(PACK, "other")

        def identify(records: list[dict[str, Any]]) -> None:
            for part in ("config", "status", "result"):
                records[0][part]["identity"] = "other"

        change(Path("other/Pendulum-v1/sac.jsonl.gz"), identify)
        assert "has different settings in them" in refusal(pack, "study=paper", "to=other")
        assert "different settings: choose another study=<name>" in refusal(unpack, "from=other")
        shutil.rmtree("outputs/paper/Pendulum-v1")
        error = refusal(unpack, f"from={PACK},other")
        assert f"{RECORDS} and other/Pendulum-v1/sac.jsonl.gz" in error
        assert "has different settings in them" in error

    def test_two_results_of_one_seed(self, study_copy: Path, refusal: Callable[..., str]) -> None:
        shutil.copytree(PACK, "other")
        change(Path("other/Pendulum-v1/sac.jsonl.gz"), lambda records: records[0]["result"].update(return_mean=5.0))
        error = refusal(unpack, "from=other")
        assert "outputs/paper/Pendulum-v1/sac/fp32~" in error
        assert "and other/Pendulum-v1/sac.jsonl.gz: different results of one seed" in error
        shutil.rmtree("outputs/paper/Pendulum-v1")
        error = refusal(unpack, f"from={PACK},other")
        assert f"{RECORDS} and other/Pendulum-v1/sac.jsonl.gz" in error
        assert "has different results in them" in error

    def test_one_computation_on_two_machines_is_one_result(self, study_clone: Path) -> None:
        shutil.copytree(PACK, "other")

        def recomputed(records: list[dict[str, Any]]) -> None:
            elsewhere = records[-1]["result"]["provenance"] | {"git_commit": None}
            records[-1]["result"].update(provenance=elsewhere, finetune_seconds=9.0, train_seconds_reason="elsewhere")
            records[-1]["result"].update(fp32_return_mean=None)

        change(Path("other/Pendulum-v1/sac.jsonl.gz"), recomputed)
        unpack([f"from=other,{PACK}"])
        assert all(run.finished_result().fp32_return_mean is not None for run in list_runs("paper"))

    def test_repeated_seeds(self, study_copy: Path, refusal: Callable[..., str]) -> None:
        (_, second), key = runs_of(f"{SAC} seed=[0,1]"), "initial_weights_sha256"
        repeated = {key: runs_of(SAC)[0].finished_result().initial_weights_sha256}
        shutil.copytree(PACK, "other")
        change(Path("other/Pendulum-v1/sac.jsonl.gz"), lambda records: records[1]["result"].update(repeated))
        assert f"have the same {key}" in refusal(pack, "study=nowhere", "to=other")
        assert f"have the same {key}" in refusal(unpack, "from=other", "study=new")
        shutil.rmtree(second.path)
        assert f"have the same {key}" in refusal(unpack, "from=other")

    def test_packs_of_two_studies(self, study_clone: Path, refusal: Callable[..., str]) -> None:
        unpack([f"from={PACK}", "study=new"])
        pack(["study=new"])
        assert "of several studies, new, paper: add study=<name>" in refusal(
            unpack, f"from={PACK},{OUTPUTS / 'new/pack'}"
        )

    @pytest.mark.parametrize(
        ("by", "words"),
        [
            (lambda r: r[0].update(schema=2), "line 1: is of schema 2; this version of rlc reads schema 1"),
            (lambda r: r.insert(1, []), "line 2: is of schema None"),
            (lambda r: r.append(r[0]), "line 7: fp32~"),
            (lambda r: r[0].pop("config"), "line 1: lacks 'config'"),
            (lambda r: r[0].update(more=1), "line 1: has other keys"),
            (lambda r: r[0].update(config=[]), "line 1: "),
            (lambda r: r[0].update(label="../../fp32"), "line 1: label '../../fp32' is none"),
            (lambda r: r[0].update(label=".."), "line 1: label '..' is none"),
            (lambda r: r[-2].update(label="../../../../fp32"), "line 5: label '../../../../fp32' is none"),
            (lambda r: r[0].update(seed="../0"), "line 1: seed '../0' is not that of its settings"),
            (lambda r: r[0].update(seed=0.0), "line 1: seed 0.0 is not that of its settings"),
            (lambda r: r[0]["tensors"].update(file="../../agent"), "line 1: names '../../agent' as its tensors"),
            (lambda r: r[0]["config"]["settings"]["env"].update(id="Hopper-v4"), "line 1: is of sac in Hopper-v4"),
            (lambda r: r[0]["status"].update(state="running"), "line 1: is not a finished run of its settings"),
            (lambda r: r[0].update(contract=None), "line 1: lacks a part of its result"),
            (lambda r: r[0].update(metrics=3), "line 1: metrics is no text"),
            (lambda r: r[0]["tensors"].update(sha256="0"), "seed0.safetensors: is damaged"),
            (lambda r: r[0]["contract"].pop("golden"), "does not make its policy: 'golden'"),
            (lambda r: r[0]["contract"]["golden"].update(tolerance=-1.0), "differs from its golden actions"),
            (
                lambda r: r[0]["contract"]["sha256"].update({"policy.safetensors": "0"}),
                "has not the hash in policy.json",
            ),
        ],
    )
    def test_a_foreign_record(self, study_clone: Path, refusal: Callable[..., str], by: Change, words: str) -> None:
        change(RECORDS, by)
        for command, arguments in ((unpack, [f"from={PACK}"]), (status, ["study=paper"]), (report, ["study=paper"])):
            error = refusal(command, *arguments)
            assert str(PACK / "Pendulum-v1") in error
            assert words in error

    def test_a_study_outside_of_outputs(self, study_clone: Path, refusal: Callable[..., str]) -> None:
        assert "study=../x: must match" in refusal(unpack, f"from={PACK}", "study=../x")
        change(RECORDS, lambda records: records[0]["config"]["settings"].update(study="../x"))
        assert "line 1: study=../x: must match" in refusal(unpack, f"from={PACK}")

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda content: content[:-20], "sac.jsonl.gz: is no whole gzip file: "),
            (lambda content: content[:200] + b"12345" + content[205:], "sac.jsonl.gz: is no whole gzip file: "),
            (lambda content: b"", "sac.jsonl.gz: holds no run"),
            (lambda content: b"version https://git-lfs", "sac.jsonl.gz: is no whole gzip file: "),
            (lambda content: gzip.compress(b"\xff"), "sac.jsonl.gz: is no whole gzip file: "),
            (lambda content: gzip.compress(gzip.decompress(content)[:-20]), "sac.jsonl.gz: line 6: "),
        ],
    )
    def test_a_torn_file(
        self, study_clone: Path, refusal: Callable[..., str], damage: Callable[[bytes], bytes], words: str
    ) -> None:
        RECORDS.write_bytes(damage(RECORDS.read_bytes()))
        for command, arguments in ((unpack, [f"from={PACK}"]), (pack, ["study=paper"]), (status, ["study=paper"])):
            assert words in refusal(command, *arguments)

    @pytest.mark.parametrize("content", [None, b"torn"])
    def test_missing_or_torn_tensors(
        self, study_clone: Path, refusal: Callable[..., str], capsys: pytest.CaptureFixture[str], content: bytes | None
    ) -> None:
        file = next(PACK.rglob("seed1.safetensors"))
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        for command, arguments in ((unpack, [f"from={PACK}"]), (pack, ["study=paper"]), (status, ["study=paper"])):
            assert str(file) in refusal(command, *arguments)
        assert plan_and_run(SAC.split()) == 2
        assert capsys.readouterr().err.count("\n") == 1
