"""Every compression of a trained policy beside the policy itself, by our protocol and by the paper's.

Run by hand: python tests/benchmarks/compression_table.py tests/data/policies/sac-hopper --out table.csv
`--qat NAME=FOLDER` adds the artifact of a QAT run beside the policy NAME; `--bits` makes the table below eight bits
instead. One row per policy and method: deterministic returns on shared start states (20 episodes, 100 where the
environment ends episodes early), their paired difference to fp32 with its 95 % interval, the share of episodes that end
early, the RMS error of actions on states that fp32 visits, bytes: `weight_bytes` of the initialisers of policy.onnx, or
of policy.safetensors below eight bits; `tensor_bytes` of policy.safetensors in every row; the words that asked for it.
`--methods` plays other methods than these: `--methods "+compress=prune_qat compress.ratio=0.85" "+compress=fp32"`.
"""

import argparse
import csv
import functools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression.artifact import load_policy
from compression.files import ONNX_FILE
from compression.lowbit import tensor_bytes
from compression.runtime import OnnxPolicy, weight_bytes
from measure.returns import Act, Returns, evaluate, random_policy, zero_policy
from measure.statistics import paired_difference
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import parse_request
from rlc.pipeline import paper
from rlc.pipeline.protocol import export_policy
from rlc.pipeline.prune import prune_policy
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory, time_limit
from trainers.policy import Policy
from trainers.tensors import FloatArray

RATIOS = (0.1, 0.3, 0.5, 0.7)
METHODS = [
    "+compress=fp32",
    "+compress=ptdq",
    "+compress=ptsq",
    *(
        f"+compress=prune_{norm} compress.ratio={ratio} compress.finetune={finetune}"
        for ratio in RATIOS
        for norm in ("l1", "l2")
        for finetune in ("none", "distill")
    ),
    "+compress=prune_ptdq",
    "+compress=prune_ptsq",
    "+compress=prune_qat",
]
LONG = "compress.distill.steps=24000 compress.distill.rounds=8 compress.distill.states=5000 compress.distill.lr=3.0e-3"
LOW_BIT_METHODS = [
    "+compress=fp32",
    *(
        f"+compress=prune_qat compress.ratio={ratio} {bits} {LONG}"
        for ratio, bits in (
            (0.7, "compress.weight_bits=4"),
            (0, "compress.weight_bits=4"),
            (0, "compress.weight_bits=3"),
            (0, "compress.weight_bits=2"),
            (0.8, "compress.weight_bits=4"),
            (0.7, "compress.weight_bits=4 compress.activation_bits=4"),
        )
    ),
    *(f"+compress=ptsq {bits}" for bits in ("compress.weight_bits=4", "compress.weight_bits=3")),
]
PAPER_METHODS = ["+compress=fp32", "+compress=ptdq", "+compress=ptsq", "+compress=prune_l2 compress.ratio=0.1"]
STATES = 2000
COLUMNS = (
    "policy",
    "method",
    "episodes",
    "return_mean",
    "return_median",
    "percent_of_fp32",
    "percent_above_reference",
    "difference_mean",
    "difference_low",
    "difference_high",
    "failed_share",
    "action_rms",
    "weight_bytes",
    "file_bytes",
    "tensor_bytes",
    "words",
)


class Bench:
    """One trained policy, the states it visits and its returns."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.policy = load_policy(folder)
        self.algorithm: str = json.loads((folder / "policy.json").read_text())["algorithm"]
        self.spec = self.policy.spec
        self.make_env = env_factory(self.spec)
        self.limit = time_limit(self.spec)
        self.episodes = 100 if self.spec.env_id.split("-")[0] in ("Hopper", "Ant", "Humanoid", "Walker2d") else 20
        fp32 = OnnxPolicy.from_policy(self.policy)
        self.states = collect_observations(fp32, self.make_env, self.spec, 10**6, STATES)
        self.actions = self._actions(fp32)
        self.fp32 = self._score(fp32)
        references = (random_policy(self.spec, 0), zero_policy(self.spec))
        self.reference = max(self._score(act).mean for act in references)

    def row(self, method: str, model: Path) -> dict[str, Any]:
        """Figures of an ONNX policy by our protocol."""
        act = OnnxPolicy(model)
        half_range = (np.array(self.spec.action_high) - np.array(self.spec.action_low)) / 2
        error = (self._actions(act) - self.actions) / (2 * half_range)
        return self._figures(method, self._score(act), model) | {"action_rms": float(np.sqrt(np.mean(error**2)))}

    def paper_row(self, method: str, model: Path) -> dict[str, Any]:
        """Figures of an ONNX policy by the paper's protocol, against the same fp32 policy by ours."""
        factory = functools.partial(paper.make_env, self.algorithm, self.spec)
        returns = evaluate(OnnxPolicy(model), factory, self.spec, episodes=self.episodes, seed=None)
        return self._figures(method, returns, model)

    def _figures(self, method: str, returns: Returns, model: Path) -> dict[str, Any]:
        values, fp32 = np.array(returns.returns), np.array(self.fp32.returns)
        difference = paired_difference(values, fp32)
        return {
            "policy": self.name,
            "method": method,
            "episodes": self.episodes,
            "return_mean": returns.mean,
            "return_median": float(np.median(values)),
            "percent_of_fp32": 100 * returns.mean / self.fp32.mean,
            "percent_above_reference": 100 * (returns.mean - self.reference) / (self.fp32.mean - self.reference),
            "difference_mean": difference.value,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "failed_share": float(np.mean(np.array(returns.lengths) < self.limit)),
            "action_rms": None,
            "weight_bytes": weight_bytes(model.read_bytes()),
            "file_bytes": model.stat().st_size,
            "tensor_bytes": tensor_bytes(load_policy(model.parent)),
        }

    def _actions(self, act: OnnxPolicy) -> FloatArray:
        return np.stack([act(state) for state in self.states])

    def _score(self, act: Act) -> Returns:
        return evaluate(act, self.make_env, self.spec, episodes=self.episodes, seed=0)


def rows(
    bench: Bench, qat: Path | None, methods: Sequence[str], paper_methods: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One row per method."""
    if qat is not None:
        yield bench.row("qat", qat / ONNX_FILE)
    for method in methods:
        yield bench.row(*_made(bench.policy, bench, method, export_policy)) | {"words": method}
    for method in paper_methods:
        yield bench.paper_row(*_made(bench.policy, bench, method, paper.export)) | {"words": method}


def _made(policy: Policy, bench: Bench, method: str, export: Any) -> tuple[str, Path]:
    """Name and ONNX file of the policy compressed by a method."""
    settings = decide_range(parse_request(compose_groups(method.split())).compress)
    name = settings.label
    if isinstance(settings, PruneSettings):
        policy = prune_policy(policy, settings, seed=0)
        name += "" if settings.finetune == "none" else f"+{settings.finetune}"
    if export is paper.export:
        policy, name = paper.deployed(policy, bench.algorithm), f"{name}-paper"
    folder = Path(tempfile.mkdtemp()) / name
    export(folder, policy, settings, algorithm=bench.algorithm, seed=0)
    return name, folder / ONNX_FILE


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--qat", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--bits", action="store_true", help="fewer than eight bits")
    parser.add_argument("--methods", nargs="+", help="words of rlc.compress, one string for each method")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    methods = args.methods or (LOW_BIT_METHODS if args.bits else METHODS)
    paper_methods = [] if args.methods or args.bits else PAPER_METHODS
    qat = dict(item.split("=", 1) for item in args.qat)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for folder in args.folders:
            bench = Bench(folder)
            own = qat.get(bench.name)
            for row in rows(bench, Path(own) if own else None, methods, paper_methods):
                writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
                file.flush()


if __name__ == "__main__":
    main()
