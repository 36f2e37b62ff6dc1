"""What an artifact says of itself: a README whose lines act, names and units, and where it came from."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.artifact import add_origin, check_artifact, load_policy, remade_files, save_artifact
from compression.onnx_export import onnx_bytes
from tests.helpers import POLICIES, probe_observations

ORIGIN = {"run": "sac Hopper-v4 fp32 seed 3", "seed": 3, "commit": "abc", "return": "3000.0 +- 10.0"}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    policy = load_policy(POLICIES / "sac-hopper")
    folder = tmp_path / "artifact"
    observations = probe_observations(policy.spec)
    save_artifact(folder, policy, onnx_bytes(policy), observations, algorithm="sac", compression={"method": "fp32"})
    return folder


def test_the_lines_of_the_readme_act(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (artifact / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(block.splitlines()) == 8
    monkeypatch.chdir(artifact)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["action"].shape == (1, 3)
    assert np.isfinite(names["reward"])
    assert "normalisation is inside" in text
    assert "not recorded" in text


def test_the_contract_has_names_types_batch_axis_and_units(artifact: Path) -> None:
    ports = json.loads((artifact / "policy.json").read_text())["interface"]
    assert ports["input"]["name"] == "observation"
    assert ports["input"]["shape"] == ["batch", 11]
    assert ports["output"]["name"] == "action"
    for port in ports.values():
        assert port["dtype"] == "float32"
        assert port["batch_axis"] == 0
        assert port["units"]


def test_where_it_came_from_is_added_and_survives_a_pack(artifact: Path) -> None:
    add_origin(artifact, ORIGIN)
    contract = check_artifact(artifact)
    assert contract["origin"] == ORIGIN
    assert "seed 3, commit abc, return 3000.0 +- 10.0" in (artifact / "README.md").read_text()
    for name, content in remade_files(load_policy(artifact), contract).items():
        assert (artifact / name).read_bytes() == content


def test_a_contract_of_before_needs_no_readme() -> None:
    folder = POLICIES / "sac-hopper"
    contract = check_artifact(folder)
    assert "interface" not in contract
    assert "README.md" not in remade_files(load_policy(folder), contract)
