"""Every method on trained policies: agreement, integers, exact widths, the same bytes every time."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from compression.artifact import INTEGER_KERNELS, check_artifact
from compression.files import CONTRACT_FILE, ONNX_FILE
from compression.runtime import optimized_operators
from rlc.compress import compress
from tests.helpers import POLICIES

FEW = "compress.calibration_steps=300 eval.episodes=1"
DISTILL = "compress.finetune=distill compress.distill.steps=40 compress.distill.states=200 compress.distill.rounds=1"
METHODS = {
    "ptdq": "",
    "ptsq": "",
    "prune_l1": "compress.ratio=0.35",
    "prune_l2": f"compress.ratio=0.35 {DISTILL}",
    "prune_ptdq": DISTILL,
    "prune_ptsq": DISTILL,
    "prune_qat": DISTILL,
}
WIDTHS = {"sac-hopper": 256, "ppo-halfcheetah": 64}


@pytest.mark.parametrize("policy", WIDTHS)
@pytest.mark.parametrize("method", METHODS)
def test_a_trained_policy_is_compressed(method: str, policy: str, tmp_path: Path) -> None:
    source = POLICIES / policy
    for name in ("first", "second"):
        command = f"policy={source} to={tmp_path / name} +compress={method} {FEW} {METHODS[method]}"
        compress(command.split())
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()

    contract = check_artifact(tmp_path / "first")
    assert contract["parity"]["p99"] <= contract["golden"]["tolerance"]
    model = (tmp_path / "first" / ONNX_FILE).read_bytes()
    matrices = [t for t in onnx.load_from_string(model).graph.initializer if len(t.dims) == 2]
    int8 = method not in ("prune_l1", "prune_l2")
    assert {t.data_type for t in matrices} == {onnx.TensorProto.INT8 if int8 else onnx.TensorProto.FLOAT}
    assert sum(kernel in INTEGER_KERNELS for kernel in optimized_operators(model)) == (3 if int8 else 0)

    kept = {"prune_l1": 0.65, "prune_l2": 0.65}.get(method, 0.5 if method.startswith("prune") else 1.0)
    width = int(np.floor(WIDTHS[policy] * kept))
    before = json.loads((source / CONTRACT_FILE).read_text())["environment"]
    outer = before["observation"]["shape"][0], before["action"]["shape"][0]
    assert [tuple(t.dims) for t in matrices] == [(outer[0], width), (width, width), (width, outer[1])]
