"""Returns of trained policies and of their compressed forms behind noisy, late and lost observations.

Run by hand: python tests/benchmarks/robustness.py tests/data/policies/*/ --out table.csv

One row per policy, method and disturbance: deterministic returns on shared start states with shared noise, the paired
difference to fp32 under the same disturbance with its 95 % interval, and the return in percent of the undisturbed one
of the same method. Noise is a share of each observation's standard deviation over states that fp32 visits. `--methods`
takes the words of rlc.compress, a method per argument; `--add NAME=FOLDER` an artifact that is there beside the policy
NAME, under the name of its folder.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression.files import ONNX_FILE
from compression.runtime import OnnxPolicy
from measure.disturbance import Disturbance, disturbed, observation_std
from measure.machine import machine
from measure.returns import Act, Returns, evaluate
from measure.statistics import paired_difference
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import parse_request
from rlc.pipeline.protocol import export_policy
from rlc.pipeline.prune import prune_policy
from rlc.runs.find import Artifact, open_artifact
from trainers.envs.make import env_factory

METHODS = (
    "+compress=ptsq",
    "+compress=prune_l2 compress.ratio=0.5 compress.finetune=distill",
    "+compress=prune_qat compress.ratio=0.5",
)
DISTURBANCES = (
    Disturbance(),
    Disturbance(noise=0.01),
    Disturbance(noise=0.03),
    Disturbance(noise=0.1),
    Disturbance(delay=1),
    Disturbance(drop=0.1),
)
# The deviation is taken over episodes of this seed, on the calibration stream of no run.
STATES_SEED = 10**6


class Bench:
    """One trained policy, the size of its observations, and its returns under each disturbance."""

    def __init__(self, name: str, artifact: Artifact, episodes: int) -> None:
        self.name = name
        self.artifact = artifact
        self.spec = artifact.policy.spec
        self.episodes = episodes
        fp32 = OnnxPolicy(artifact.folder / ONNX_FILE)
        self.std = observation_std(fp32, self.spec, STATES_SEED)
        self.fp32 = {disturbance: self.play(fp32, disturbance) for disturbance in DISTURBANCES}

    def play(self, act: Act, disturbance: Disturbance) -> Returns:
        factory = disturbed(env_factory(self.spec), disturbance, self.std)
        return evaluate(act, factory, self.spec, episodes=self.episodes, seed=0)

    def compress(self, method: str) -> tuple[str, Path]:
        """Name and artifact of the policy compressed by a method."""
        settings = decide_range(parse_request(compose_groups(method.split())).compress)
        policy = self.artifact.policy
        if isinstance(settings, PruneSettings):
            policy = prune_policy(policy, settings, seed=0)
        folder = Path(tempfile.mkdtemp()) / settings.label
        export_policy(folder, policy, settings, algorithm=self.artifact.contract["algorithm"], seed=0)
        return settings.label, folder

    def disturbed_rows(self, method: str, folder: Path) -> Iterator[dict[str, Any]]:
        """As `rows`, of an artifact that is played here."""
        act = OnnxPolicy(folder / ONNX_FILE)
        return self.rows(method, {disturbance: self.play(act, disturbance) for disturbance in DISTURBANCES})

    def rows(self, method: str, returns: dict[Disturbance, Returns]) -> Iterator[dict[str, Any]]:
        """One row per disturbance of a method."""
        undisturbed = returns[Disturbance()].mean
        for disturbance, played in returns.items():
            difference = paired_difference(np.array(played.returns), np.array(self.fp32[disturbance].returns))
            yield {
                "policy": self.name,
                "method": method,
                "noise": disturbance.noise,
                "delay": disturbance.delay,
                "drop": disturbance.drop,
                "episodes": self.episodes,
                "return_mean": played.mean,
                "return_std": played.std,
                "percent_of_undisturbed": 100 * played.mean / undisturbed,
                "difference_to_fp32_mean": difference.value,
                "difference_to_fp32_low": difference.low,
                "difference_to_fp32_high": difference.high,
                "cpu": machine()["cpu_model"],
            }


def rows(bench: Bench, methods: Sequence[str], added: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """All rows of one policy."""
    yield from bench.rows("fp32", bench.fp32)
    for method in methods:
        yield from bench.disturbed_rows(*bench.compress(method))
    for folder in added:
        yield from bench.disturbed_rows(folder.name, open_artifact(folder).folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--add", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    added = [item.split("=", 1) for item in args.add]
    writer = None
    with args.out.open("w", newline="") as file:
        for folder in args.folders:
            bench = Bench(folder.name, open_artifact(folder), args.episodes)
            for row in rows(bench, args.methods, [Path(path) for name, path in added if name == bench.name]):
                if writer is None:
                    writer = csv.DictWriter(file, row)
                    writer.writeheader()
                writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
                file.flush()


if __name__ == "__main__":
    main()
