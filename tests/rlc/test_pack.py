"""A study in a pack: a clone reports it and goes on with it, and what does not mix is refused in one line."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from compression.artifact import check_artifact
from compression.files import sha256
from compression.onnx_export import onnx_bytes
from measure.returns import Returns, summary
from rlc import measure
from rlc.compress import compress
from rlc.config.plan import make_plan
from rlc.evaluate import evaluate_run
from rlc.export import export
from rlc.pack import pack
from rlc.packing.packs import read_pack, record_files, same_outcome
from rlc.pipeline.check import check_runs
from rlc.pipeline.job import run_job
from rlc.report import report
from rlc.runs.files import OUTPUTS
from rlc.runs.find import list_runs
from rlc.runs.records import MeasuredReturns, Measurement
from rlc.runs.stored import load_run
from rlc.status import status
from rlc.train import plan_and_run
from rlc.unpack import unpack
from tests.helpers import ROOT
from tests.packed import DERIVED, LINES, MEASURED, PACK, RECORDS, SAC, TRPO, change, contents, runs_of, tree
from trainers.policy import Policy, Rescale

ONE_EPISODE = Measurement(eval=MeasuredReturns(**summary(Returns((1.0,), (5,)), 5, None)))


class TestClone:
    def test_all_is_finished_and_nothing_is_trained(
        self, study_clone: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for line in LINES:
            assert plan_and_run(line.split()) == 0
        shown = capsys.readouterr()
        assert shown.out.count("1 job, 1 run, 1 of them finished already") == len(LINES) - 1
        assert shown.out.count("1 job, 2 runs, 2 of them finished already") == 1
        assert shown.err == "rlc: outputs/paper: 10 runs from its pack\n"

    def test_status_and_report_find_it_by_themselves(
        self, study_clone: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status(["study=paper", "--json"])
        shown = capsys.readouterr()
        assert {run["state"] for run in json.loads(shown.out)} == {"done"}
        assert shown.err == "rlc: outputs/paper: 10 runs from its pack\n"
        report(["study=paper", "wandb.mode=disabled"])
        assert "10 runs; made by" in capsys.readouterr().out
        assert (
            "came from a pack as records, without their policies" in (OUTPUTS / "paper/report/index.html").read_text()
        )

    def test_a_command_finds_it_in_a_process_of_its_own(self, study_clone: Path) -> None:
        command = [sys.executable, "-m", "rlc.status", *f"{SAC} seed=0,1,2 -m".split()]
        done = subprocess.run(command, cwd=study_clone, capture_output=True, text=True, check=True)
        assert "2 done, 1 not begun" in done.stdout

    def test_directories_are_those_of_the_original(self, study_home: Path, study_clone: Path) -> None:
        status(["study=paper"])
        for run in list_runs("paper"):
            was, now = contents(study_home / run.path), contents(run.path)
            kept = {name for name in was if name not in ("agent.safetensors", "run.log")}
            if run.record_only():
                kept -= {name for name in kept if name.startswith("artifact/")} | {"status.json"}
            assert {name: now[name] for name in kept} == {name: was[name] for name in kept}

    def test_a_second_look_reads_no_pack(self, study_clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        status(["study=paper"])
        run = list_runs("paper")[0]
        with monkeypatch.context() as patch:
            patch.setattr("rlc.packing.restore.read_pack", None)
            status(["study=paper"])
        shutil.rmtree(run.path)
        status(["study=paper"])
        assert run.finished()

    def test_measurements_reach_directories_that_lack_them(self, study_home: Path, study_clone: Path) -> None:
        shutil.copytree(study_home / "outputs/paper/Pendulum-v1", "outputs/paper/Pendulum-v1")
        (run,) = runs_of(f"{SAC} {DERIVED[0]}")
        (run.path / "measurement.json").unlink()
        status(["study=paper"])
        assert run.measurement() == MEASURED


class TestPolicies:
    @pytest.mark.parametrize("trained", [SAC, TRPO])
    @pytest.mark.parametrize("derived", DERIVED)
    def test_derived_runs_come_out_the_same(
        self, study_home: Path, study_clone: Path, trained: str, derived: str
    ) -> None:
        line = f"{trained} {derived}"
        (run,) = runs_of(line)
        assert plan_and_run([*line.split(), "overwrite=true"]) == 0
        was = load_run(study_home / run.path)
        assert not run.record_only()
        assert same_outcome(run.result(), was.result())
        assert contents(run.artifact) == contents(was.artifact)

    def test_a_qat_policy_gives_its_golden_actions(self, study_home: Path, study_clone: Path) -> None:
        status(["study=paper"])
        (run,) = runs_of(f"{SAC} +compress=qat")
        assert check_artifact(run.artifact)["compression"]["method"] == "qat"
        assert contents(run.artifact) == contents(study_home / run.artifact)

    def test_fp32_keeps_the_actor_with_all_heads_and_nothing_else(self, study_home: Path, study_clone: Path) -> None:
        status(["study=paper"])
        for line, networks in ((SAC, {"actor"}), (TRPO, {"actor", "observations"})):
            (run,) = runs_of(line)
            own, whole = (
                safetensors.torch.load_file(home / run.path / "agent.safetensors") for home in (study_clone, study_home)
            )
            assert {name.partition(".")[0] for name in own} == networks
            assert all(tensor.equal(whole[name]) for name, tensor in own.items())
        assert (
            safetensors.torch.load_file(runs_of(SAC)[0].path / "agent.safetensors")["actor.layers.2.bias"].shape[-1]
            == 2
        )

    def test_another_onnx_names_its_own_hash(self, study_clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = tree(study_clone / PACK)
        monkeypatch.setattr("compression.artifact.onnx_bytes", lambda policy: onnx_bytes(policy) + b"\x32\x01x")
        status(["study=paper"])
        (run,) = runs_of(SAC)
        model = (run.artifact / "policy.onnx").read_bytes()
        assert model.endswith(b"x")
        assert check_artifact(run.artifact)["sha256"]["policy.onnx"] == sha256(model)
        pack(["study=paper"])
        assert tree(study_clone / PACK) == before

    def test_another_onnx_must_give_the_golden_actions(
        self, study_clone: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
    ) -> None:
        def other(policy: Policy) -> bytes:
            changed = copy.deepcopy(policy)
            changed[-2] = Rescale(torch.zeros(1), torch.ones(1))
            return onnx_bytes(changed)

        monkeypatch.setattr("compression.artifact.onnx_bytes", other)
        assert "policy.onnx differs from its golden actions" in refusal(status, "study=paper")

    @pytest.mark.parametrize(
        ("command", "key"), [(evaluate_run, "run"), (export, "run"), (compress, "policy")], ids=lambda x: str(x)
    )
    def test_what_needs_a_policy_says_how_to_make_it(
        self, study_clone: Path, refusal: Callable[..., str], command: Callable[[list[str]], None], key: str
    ) -> None:
        status(["study=paper"])
        (run,) = runs_of(f"{SAC} {DERIVED[1]}")
        assert "came from a pack without its policy: the command that made it, with overwrite=true" in refusal(
            command, f"{key}={run.path}"
        )

    def test_measure_leaves_records_alone(
        self,
        study_clone: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        refusal: Callable[..., str],
    ) -> None:
        monkeypatch.setattr(measure, "measure_group", lambda group, settings: [ONE_EPISODE for _ in group])
        monkeypatch.setattr(measure, "add_energy", lambda groups, settings: None)
        monkeypatch.setattr("rlc.reporting.console.show_measurements", lambda runs: None)
        measure.measure(["study=paper"])
        assert "left out, and their measurements left as they are: 6 runs came from a pack" in capsys.readouterr().err
        for run in list_runs("paper"):
            measurement = run.measurement()
            measured = measurement is not None and measurement.eval == ONE_EPISODE.eval
            assert measured == run.settings.trains
        (record,) = runs_of(f"{SAC} {DERIVED[0]}")
        assert record.measurement() == MEASURED
        assert "6 runs came from a pack" in refusal(measure.measure, "study=paper", "label=ptsq*,prune*")

    @pytest.mark.parametrize(
        "words", [f"{DERIVED[1]} compress.finetune=rl compress.rl_steps=400", "+compress=qat protocol=paper"]
    )
    def test_further_training_needs_the_critics(
        self, study_clone: Path, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = f"{SAC} {words}".split()
        status(["study=paper"])
        capsys.readouterr()
        before = tree(study_clone)
        assert plan_and_run(line) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "came from a pack without its critics: train that run again first, with overwrite=true" in error
        assert tree(study_clone) == before
        # With the fp32 run trained anew before it, it may be planned.
        anew = [make_plan(text.split()).jobs[0] for text in (f"{SAC} overwrite=true", f"{SAC} {words}")]
        assert len(check_runs(anew)) == 2
        # Unplanned it ends in a failure, never in fresh critics.
        run_job(make_plan(line).jobs[0])
        assert "came from a pack without its critics" in runs_of(f"{SAC} {words}")[0].error()


def kill_after(patch: pytest.MonkeyPatch, method: str, calls: int) -> None:
    """A method of Path that takes a target ends the process when it is called once more than that."""
    real = getattr(Path, method)
    done = 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done > calls:
            raise KeyboardInterrupt
        moved: Path = real(self, target)
        return moved

    patch.setattr(Path, method, killed)


class TestKilled:
    @pytest.mark.parametrize("after", [0, 1, 5])
    def test_unpacking_goes_on(self, study_clone: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        unpack([f"from={PACK}", "study=whole"])
        with monkeypatch.context() as patch:
            kill_after(patch, "rename", after)
            with pytest.raises(KeyboardInterrupt):
                unpack([f"from={PACK}", "study=paper"])
        assert len(list_runs("paper")) == after
        assert all(run.finished() for run in list_runs("paper"))
        status(["study=paper"])
        pack(["study=paper", "to=again"])
        assert contents(Path("again")) == contents(PACK)
        assert not list(OUTPUTS.rglob("*.unpacking"))

    @pytest.mark.parametrize("after", [0, 1, 4, 5])
    def test_packing_goes_on(self, study_copy: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        """Every file is there as it was, or as it is to be."""
        whole = contents(PACK)
        shutil.rmtree(PACK)
        with monkeypatch.context() as patch:
            kill_after(patch, "replace", after)
            with pytest.raises(KeyboardInterrupt):
                pack(["study=paper"])
        found = contents(PACK)
        assert len(found) == after
        # Tensors come before the record that names them.
        if record_files(PACK):
            assert all(run.tensors() for run in read_pack(PACK) if run.settings.trains)
        assert found.items() <= whole.items()
        pack(["study=paper"])
        assert contents(PACK) == whole

    def test_a_retrained_run_whose_record_was_not_written(self, study_copy: Path) -> None:
        """New tensors lie beside the old record: packing again finishes it."""
        whole = contents(PACK)
        (run,) = runs_of(f"{SAC} +compress=qat")
        file = PACK / "Pendulum-v1" / "sac" / run.label / "seed0.safetensors"
        change(RECORDS, lambda records: records[-1]["tensors"].update(sha256="of before"))
        pack(["study=paper"])
        assert file.exists()
        assert contents(PACK) == whole


def test_git_tracks_this_pack_and_no_other_output(tmp_path: Path) -> None:
    ignored = ROOT / "outputs" / ".gitignore"
    (tmp_path / "outputs").mkdir()
    shutil.copy(ignored, tmp_path / "outputs")
    tracked = ["paper/pack/Ant-v4/sac.jsonl.gz", "paper/pack/Ant-v4/sac/fp32/seed0.safetensors"]
    others = ["paper/Ant-v4/sac/fp32/seed0/result.json", "paper/.unpacked.json", "default/pack/Ant-v4/sac.jsonl.gz"]
    for name in (*tracked, *others, "default/paper/pack/a", "paper/report/index.html"):
        path = tmp_path / "outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listing = ["git", "ls-files", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(f"outputs/{name}" for name in (".gitignore", *tracked))
