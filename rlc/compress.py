"""Compress a policy you have: python -m rlc.compress policy=<artifact or file> +compress=ptsq env=hopper"""

import functools
from pathlib import Path

from compression.artifact import ONNX_FILE, check_artifact, load_policy, quantized_layers
from compression.distill import distill
from compression.imports.layers import Request
from compression.imports.read import FORMATS, read_foreign
from compression.onnx_export import onnx_bytes
from compression.pruning import Importance, prune
from compression.runtime import OnnxPolicy
from measure.returns import Returns, evaluate
from rlc.cli import run_command, split
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import CompressRequest, parse_request
from rlc.messages import warn
from rlc.pipeline import build
from rlc.pipeline.protocol import export_policy
from rlc.runs.find import artifact_of
from trainers.envs.make import make_env, spec_of
from trainers.errors import UserError
from trainers.nn.activations import ACTIVATIONS
from trainers.policy import Policy, split_at_linears

# What is said of a file alone: an artifact knows it.
OF_A_FILE = ("statistics", "activation", "actions")
OWN = ("policy", *OF_A_FILE, "to")
ALLOWED = {"activation": tuple(ACTIVATIONS), "actions": ("rescale", "clip")}


def compress(arguments: list[str]) -> None:
    """Read, compress, check, evaluate both, and write an artifact to `to`."""
    values, rest = split(arguments, OWN)
    if not values.get("policy"):
        raise UserError(f"policy: none given; add policy=<folder of an artifact, or file: {', '.join(FORMATS)}>")
    for key, allowed in ALLOWED.items():
        if key in values and values[key] not in allowed:
            raise UserError(f"{key}={values[key]}: unknown; allowed: {', '.join(allowed)}")
    request = parse_request(compose_groups(rest))
    source = Path(values["policy"]).expanduser()
    env_given = any(argument.partition("=")[0] in ("env", "env.id") for argument in rest)
    policy, algorithm = _read(source, values, request, env_given=env_given)
    label = request.compress.label
    target = Path(values.get("to") or source.with_name(f"{source.stem}-{label}")).expanduser()
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another to=<folder>")
    factory = functools.partial(make_env, policy.spec.env_id)
    settings = decide_range(request.compress)
    smaller = policy
    if isinstance(settings, PruneSettings):
        smaller = prune_policy(policy, settings, request.seed)
    _, model = export_policy(target, smaller, settings, algorithm=algorithm, seed=request.seed)

    def score(act: OnnxPolicy) -> Returns:
        how = {"episodes": request.eval.episodes, "seed": request.eval.seed}
        return evaluate(act, factory, policy.spec, **how)

    before = score(OnnxPolicy(onnx_bytes(policy)))
    after = score(OnnxPolicy(target / ONNX_FILE))
    size = len(onnx_bytes(policy)), len(model)
    print(f"{source}: {policy.spec.env_id}, return {before.mean:.1f} +- {before.std:.1f}, {size[0] / 1000:.1f} KB")
    print(f"{target}: {label}, return {after.mean:.1f} +- {after.std:.1f}, {size[1] / 1000:.1f} KB")


def _read(source: Path, values: dict[str, str], request: CompressRequest, env_given: bool) -> tuple[Policy, str]:
    """The policy and the name of its algorithm."""
    env_id = request.env.id
    if source.is_dir():
        for key in OF_A_FILE:
            if key in values:
                raise UserError(f"{key}={values[key]}: {source} is an artifact, which says it; leave {key} out")
        folder = artifact_of(source)
        contract = check_artifact(folder)
        policy = load_policy(folder)
        if env_given and policy.spec.env_id != env_id:
            raise UserError(f"env.id={env_id}: {source} was made for {policy.spec.env_id}")
        if quantized_layers(policy):
            raise UserError(f"policy={source}: is quantised already; allowed: a policy in float32")
        return policy, contract["algorithm"]
    if not env_given:
        raise UserError(f"env: none given, and {source} does not name its environment; add env=<name> or env.id=<id>")
    said = {key: values.get(key) for key in OF_A_FILE}
    imported = read_foreign(Request(source, spec_of(env_id), **said))
    for note in imported.notes:
        warn(note)
    return imported.policy, imported.algorithm


def prune_policy(policy: Policy, compress: PruneSettings, seed: int) -> Policy:
    """The policy pruned, and recovered by distillation if asked."""
    before, core, after = split_at_linears(policy)
    importance = Importance(compress.norm, compress.reduction, compress.normalizer, compress.bias)
    narrow = Policy(policy.spec, [*before, *prune(core, compress.ratio, importance), *after])
    if compress.finetune == "none":
        return narrow
    factory = functools.partial(make_env, policy.spec.env_id)
    transform = build.qat_transform(compress, raw=not before)
    how = compress.distill.model_dump()
    return distill(narrow, policy, factory, seed=seed, transform=transform, **how)


if __name__ == "__main__":
    run_command(compress)
