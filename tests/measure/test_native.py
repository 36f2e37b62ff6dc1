"""Small policies of every method, built as C for a measurement."""

from pathlib import Path

import numpy as np
import pytest

from compression.artifact import load_policy
from compression.files import ONNX_FILE
from compression.native.toolchain import NO_COMPILER, NativeError, Sizes
from measure import latency
from measure.native import NO_SIZES, NO_STACK, NativeBuild, build_native
from tests.compression.native.builds import METHODS, needs_compiler, observations, small_artifact

QUICK = ("fp32", "prune_qat")


@needs_compiler
@pytest.mark.parametrize("method", [pytest.param(m, marks=[] if m in QUICK else [pytest.mark.slow]) for m in METHODS])
def test_a_policy_of_each_method_is_timed_beside_onnx_runtime(method: str, tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", method, "relu")
    build = build_native(artifact)
    assert isinstance(build, NativeBuild)
    run = latency.onnx_run((artifact / ONNX_FILE).read_bytes())
    obs = observations(load_policy(artifact), 16)
    for row in obs:
        np.testing.assert_allclose(build.act(row), run(row[None])[0], atol=1e-4)
    times = latency.time_interleaved({"run": run, "native": build.act}, obs, 400, unbatched=["native"])
    assert 0 < times["native"].p50_us < times["run"].p50_us
    if build.sizes_reason is None:
        assert build.sizes is not None
        assert build.sizes.code > 0
        assert build.sizes.constants > sum(layer.numel() for layer in load_policy(artifact).parameters())


def test_ptdq_has_no_c_form_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = small_artifact(tmp_path / "artifact", "ptdq", "relu")
    reason = build_native(artifact)
    assert "ptdq takes its ranges from each observation" in str(reason)
    monkeypatch.setattr("compression.native.toolchain.shutil.which", lambda name: None)
    assert build_native(artifact) == reason


def test_a_machine_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.native.toolchain.shutil.which", lambda name: None)
    assert build_native(small_artifact(tmp_path / "artifact", "ptsq", "relu")) == NO_COMPILER


@needs_compiler
def test_c_that_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise NativeError("cc: error: broken")

    monkeypatch.setattr("measure.native.load", fails)
    assert build_native(small_artifact(tmp_path / "artifact", "fp32", "relu")) == "cc: error: broken"


@needs_compiler
@pytest.mark.parametrize("missing", ["size", "stack"])
def test_bytes_that_were_not_counted_have_a_reason(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = None if missing == "size" else Sizes(1, 2, None)
    monkeypatch.setattr("compression.native.folder.measure_sizes", lambda folder, compiler: sizes)
    build = build_native(small_artifact(tmp_path / "artifact", "fp32", "relu"))
    assert isinstance(build, NativeBuild)
    assert build.sizes == sizes
    assert build.sizes_reason == (NO_SIZES if missing == "size" else NO_STACK)
