"""An artifact as a folder of C: written under a temporary name, tested where a compiler is found, then renamed."""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compression.artifact import load_policy
from compression.files import CONTRACT_FILE
from compression.native.generate import TEMPLATES, Options, policy_source, render
from compression.native.network import Network, read_network
from compression.native.toolchain import NO_COMPILER, Sizes, find_compiler, measure_sizes, self_test
from trainers.errors import UserError

COPIED = ("policy.py", "Makefile", "CMakeLists.txt")
RENDERED = ("policy.h", "policy_test.c", "policy_bench.c", "library.properties", "library.json", "idf_component.yml")


@dataclass(frozen=True)
class Score:
    """Return of a policy over some episodes, mean and standard deviation."""

    mean: float
    std: float
    episodes: int


@dataclass(frozen=True)
class NativeExport:
    """What was written: the outcome of the self-test, or why there is none, and the sizes where measured."""

    test: str
    sizes: Sizes | None


def export_native(artifact: Path, target: Path, options: Options, score: Score | None = None) -> NativeExport:
    """Write the policy of an artifact as C.

    Args:
        artifact: folder of the artifact, whose files are taken as checked.
        target: folder to write; it may exist if it is empty.
        options: layout of the weights and skipping of zeros.
        score: of the policy, for the README.

    Raises:
        UserError: for a target that holds something, options that exclude each other, a policy that has no C.
        NativeError: where the C code does not compile or its self-test fails; nothing is written then.

    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"to={target}: exists already; allowed: a new or an empty folder")
    if options.skip_zeros and options.layout == "rows":
        raise UserError("layout=rows: skip_zeros=true needs the packed layout; allowed: layout=auto, layout=packed")
    network = read_network(load_policy(artifact))
    _check_weights(network, options)
    contract = json.loads((artifact / CONTRACT_FILE).read_text())
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        outcome = _write(temporary, network, contract, options, score)
        if target.exists():
            target.rmdir()
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return outcome


def _check_weights(network: Network, options: Options) -> None:
    """Raises UserError where packed bits are asked for that do not fit the policy or the other options."""
    if options.weights != "bits":
        return
    if options.skip_zeros:
        raise UserError("weights=bits: packed bits skip no zeros; allowed: skip_zeros=false, weights=auto, bytes")
    if options.layout == "packed":
        raise UserError("weights=bits: packed bits lie in rows; allowed: layout=auto, layout=rows")
    if not network.quantized or network.weight_bits == 8:
        raise UserError("weights=bits: the policy has no weights of fewer than eight bits; allowed: auto, bytes")


def _write(
    folder: Path, network: Network, contract: dict[str, Any], options: Options, score: Score | None
) -> NativeExport:
    """All files, README last: it has what the compiler made of the others."""
    values = _template_values(network, contract, options)
    (folder / "policy.c").write_text(policy_source(network, options, values["title"]))
    for name in RENDERED:
        (folder / name).write_text(render(f"{name}.j2", **values))
    for name in COPIED:
        shutil.copy(TEMPLATES / name, folder / name)
    compiler = find_compiler()
    if compiler is None:
        test = f"not tested: {NO_COMPILER}"
        sizes = None
    else:
        test = self_test(folder, compiler)
        sizes = measure_sizes(folder, compiler)
    native = {
        "layout": options.layout,
        "skip_zeros": options.skip_zeros,
        "weights": options.weights,
        "macs": network.macs,
        "sizes": asdict(sizes) if sizes else None,
    }
    (folder / CONTRACT_FILE).write_text(json.dumps(contract | {"native": native}, indent=1))
    readme = render("README.md.j2", **values, returns=_returns(score, contract), sizes=_size_rows(sizes))
    (folder / "README.md").write_text(readme)
    return NativeExport(test, sizes)


def _template_values(network: Network, contract: dict[str, Any], options: Options) -> dict[str, Any]:
    environment = contract["environment"]
    env_id = environment["id"]
    algorithm = contract["algorithm"]
    method = contract["compression"]["method"]
    low = environment["action"]["low"]
    high = environment["action"]["high"]
    golden = contract["golden"]
    widths = [network.layers[0].weight.shape[1], *(len(layer.weight) for layer in network.layers)]
    return {
        "title": f"A policy of {algorithm} for {env_id}, {method}",
        "library": f"policy_{re.sub(r'[^A-Za-z0-9]+', '_', f'{env_id}_{algorithm}_{method}').lower()}",
        "net": network,
        "env_id": env_id,
        "obs_dim": environment["observation"]["shape"][0],
        "act_dim": environment["action"]["shape"][0],
        "bounds": list(zip(low, high, strict=True)),
        "action_low": low,
        "action_high": high,
        "inside": _inside(contract["stages"]),
        "golden_obs": golden["observations"],
        "golden_action": golden["actions"],
        "tolerance": golden["tolerance"],
        "widths": "-".join(str(width) for width in widths),
        "layout": options.layout,
        "skip_zeros": options.skip_zeros,
        "weights": options.weights,
    }


def _inside(stages: list[str]) -> list[str]:
    """What stands around the layers, a line each."""
    meanings = {
        "standardize": "normaliser: (observation - mean) / standard deviation, the numbers of training",
        "tanh": "squash: tanh of the last layer",
        "rescale": "scale: from [-1, 1] to the bounds of the action",
        "clamp": "clamp: of normalised observations, of the action, or of both",
    }
    last = max(i for i, stage in enumerate(stages) if stage.endswith("linear"))
    around = [stage for stage in stages if stage in ("standardize", "clamp")] + stages[last + 1 :]
    lines = [f"- {meanings[stage]}" for stage in dict.fromkeys(around) if stage in meanings]
    return lines or ["- nothing: the network reads raw observations and gives actions"]


def _returns(score: Score | None, contract: dict[str, Any]) -> str:
    """Of a run its score; of another policy what its artifact says of where it came from."""
    if score is None:
        return str(contract.get("origin", {}).get("return", "not known here"))
    return f"{score.mean:.1f} +- {score.std:.1f} over {score.episodes} episodes"


def _size_rows(sizes: Sizes | None) -> list[tuple[str, str]]:
    """Rows of the README's table."""
    if sizes is None:
        return [("code, constants, stack", "not measured: no C compiler or no binutils")]
    stack = "not measured" if sizes.stack is None else f"{sizes.stack:,} bytes"
    note = " (-Os, compiler of the exporting machine)"
    return [
        (f"code{note}", f"{sizes.code:,} bytes"),
        ("constants", f"{sizes.constants:,} bytes"),
        ("stack of a call", stack),
        ("heap, static RAM", "0"),
    ]
