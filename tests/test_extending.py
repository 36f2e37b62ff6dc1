"""The worked examples of docs/extending.md, as a reader would follow them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

BLOCKS = re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", (ROOT / "docs/extending.md").read_text(), re.M | re.S)


def apply(diff: str, folder: Path) -> None:
    """Replace the lines that each part of a diff takes away or stands beside by what it leaves."""
    for name, parts in re.findall(r"^--- a/(\S+)\n\+\+\+ .*\n((?:(?!---).*\n)+)", diff, re.M):
        path = folder / name
        for part in filter(None, parts.split("@@\n")):
            before = "".join(line[1:] for line in part.splitlines(True) if line[0] in " -")
            after = "".join(line[1:] for line in part.splitlines(True) if line[0] in " +")
            text = path.read_text()
            assert text.count(before) == 1, f"{name}: {before}"
            path.write_text(text.replace(before, after))


def test_the_examples_train_compress_and_export(tmp_path: Path) -> None:
    for name in ("conf", "rlc", "trainers", "compression", "measure"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for language, name, text in BLOCKS:
        if language == "diff":
            apply(text, tmp_path)
        elif name:
            assert not (tmp_path / name).exists()
            (tmp_path / name).write_text(text)
    assert sum(bool(name) for _, name, _ in BLOCKS) == 5
    command = next(text for language, _, text in BLOCKS if not language).split()
    small = ["eval.episodes=1", "eval.evaluations=1", "wandb.mode=disabled", "algo.hidden=[16,16]"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command[1:-1], *small, "-m"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [
        json.loads(path.read_text()) for path in tmp_path.glob("outputs/default/Pendulum-v1/a2c/*/seed?/result.json")
    ]
    assert sorted((r["compress"], r["seed"]) for r in results) == [
        (m, s) for m in ("fp32", "half", "qat") for s in (0, 1)
    ]
    size = {r["compress"]: r["weight_bytes"] for r in results}
    assert size["half"] < 0.7 * size["fp32"]
