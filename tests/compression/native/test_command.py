"""rlc.export target=c: what it writes, what it says, what it refuses in one line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compression.artifact import add_origin
from rlc.export import export
from tests.compression.native.builds import needs_compiler, small_artifact
from tests.helpers import POLICIES, ROOT

FILES = {
    "policy.h",
    "policy.c",
    "policy_test.c",
    "policy_bench.c",
    "policy.py",
    "policy.json",
    "Makefile",
    "CMakeLists.txt",
    "README.md",
    "library.properties",
    "library.json",
    "idf_component.yml",
}
WITHOUT_THE_STACK = """
import sys
from rlc.native import load
policy = load("c")
golden = policy.contract["golden"]
assert all((policy.act(obs) - action == 0).all() for obs, action in zip(golden["observations"], golden["actions"]))
assert not {"torch", "onnxruntime", "onnx"} & set(sys.modules)
"""


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_artifact(tmp_path / "artifact", "ptsq", "relu")


@needs_compiler
class TestAnExportedFolder:
    def test_it_has_every_file_and_a_self_test_ran(
        self, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "c").mkdir()  # an empty folder may be there
        export([f"policy={artifact}", "target=c", "to=c"])
        assert re.fullmatch(r"c: test for Test-v0, ptsq: .*16 of 16 actions identical.*\n", capsys.readouterr().out)
        assert {path.name for path in (tmp_path / "c").iterdir()} == FILES
        assert {path.name for path in tmp_path.iterdir()} == {"artifact", "c"}
        contract = json.loads((tmp_path / "c" / "policy.json").read_text())
        assert contract["native"]["macs"] == 5 * 19 + 19 * 37 + 37 * 3
        assert json.loads((tmp_path / "c" / "library.json").read_text())["headers"] == "policy.h"

    def test_python_loads_it_without_torch_and_onnx_runtime(self, artifact: Path, tmp_path: Path) -> None:
        export([f"policy={artifact}", "target=c", "to=c"])
        subprocess.run(
            [sys.executable, "-c", WITHOUT_THE_STACK],
            cwd=tmp_path,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def test_its_own_python_file_needs_nothing_of_the_project(self, artifact: Path, tmp_path: Path) -> None:
        export([f"policy={artifact}", "target=c", "to=c"])
        command = [sys.executable, "-I", "policy.py"]
        shown = subprocess.run(command, cwd=tmp_path / "c", capture_output=True, text=True, check=True).stdout
        assert "difference to the golden actions: 0 half ranges" in shown

    def test_the_program_of_its_readme_prints_an_action(self, artifact: Path, tmp_path: Path) -> None:
        export([f"policy={artifact}", "target=c", "to=c"])
        program, command = re.findall(r"```(?:c)?\n(.*?)```", (tmp_path / "c/README.md").read_text(), re.S)
        (tmp_path / "c/main.c").write_text(program)
        shown = subprocess.run(command, shell=True, cwd=tmp_path / "c", capture_output=True, text=True, check=True)
        assert np.isfinite([float(line) for line in shown.stdout.split()]).all()
        assert len(shown.stdout.split()) == 3

    def test_a_run_brings_its_return(self, tmp_path: Path) -> None:
        export([f"run={POLICIES / 'ppo-hopper'}", "target=c", f"to={tmp_path / 'c'}"])
        assert "| return | 2097.2 +- 593.0 over 10 episodes |" in (tmp_path / "c/README.md").read_text()

    def test_another_policy_brings_what_its_origin_says(self, artifact: Path, tmp_path: Path) -> None:
        add_origin(artifact, {"return": "12.0 +- 3.0"})
        export([f"policy={artifact}", "target=c", f"to={tmp_path / 'c'}"])
        assert "| return | 12.0 +- 3.0 |" in (tmp_path / "c/README.md").read_text()


def test_without_a_compiler_it_says_so(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    export([f"policy={artifact}", "target=c", "to=c"])
    assert "not tested: no C compiler: install gcc or clang" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["target=c"], r"to: none given; target=c needs to=<folder>"),
        (["target=d", "to=c"], r"target=d: unknown; allowed: onnx, c"),
        (["target=c", "to=c", "layout=wide"], r"layout=wide: unknown; allowed: auto, rows, packed"),
        (["target=c", "to=c", "skip_zeros=yes"], r"skip_zeros=yes: unknown; allowed: true, false"),
        (["target=c", "to=c", "skip_zeros=true", "layout=rows"], r"layout=rows: skip_zeros=true needs the packed"),
        (["target=c", "to=c", "weights=nibbles"], r"weights=nibbles: unknown; allowed: auto, bytes, bits"),
        (["to=c", "layout=rows"], r"layout=rows: only with target=c"),
        (["target=c", "to=artifact"], r"to=artifact: exists already; allowed: a new or an empty folder"),
        (["target=c", "to=c", "run=artifact"], r"run: give one of run=.* and policy="),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(arguments: list[str], line: str, artifact: Path, refusal: Callable[..., str]) -> None:
    assert re.search(line, refusal(export, "policy=artifact", *arguments))
