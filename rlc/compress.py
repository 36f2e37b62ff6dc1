"""Compress a policy you have: python -m rlc.compress policy=<artifact or SB3 zip> +compress=ptsq env=hopper"""

import functools
from pathlib import Path

from compression.artifact import ONNX_FILE, check_artifact, load_policy, quantized_layers
from compression.distill import distill
from compression.onnx_export import onnx_bytes
from compression.pruning import Importance, prune
from compression.runtime import OnnxPolicy
from compression.sb3 import read_sb3
from measure.returns import Returns, evaluate
from rlc.cli import run_command, split
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import CompressRequest, parse_request
from rlc.pipeline import build
from rlc.pipeline.protocol import export_policy
from rlc.pipeline.smallest import Search, write_search
from rlc.runs.find import artifact_of
from trainers.envs.make import make_env, spec_of
from trainers.errors import UserError
from trainers.policy import Policy, split_at_linears

OWN = ("policy", "statistics", "activation", "to", "target_return")


def compress(arguments: list[str]) -> None:
    """Read, compress, check, evaluate both, and write an artifact to `to`.

    With `target_return`, a share of the return, the smallest that keeps it is looked for first.
    """
    values, rest = split(arguments, OWN)
    if not values.get("policy"):
        raise UserError("policy: none given; add policy=<folder of an artifact or zip of Stable-Baselines3>")
    if values.get("activation") not in (None, "relu", "tanh"):
        raise UserError(f"activation={values['activation']}: unknown; allowed: relu, tanh")
    request = parse_request(compose_groups(rest))
    share = _target_return(values.get("target_return"), request, rest)
    source = Path(values["policy"])
    policy, algorithm = _read(source, values, request, env_given=any(a.startswith("env") for a in rest))
    name = request.compress.label if share is None else "smallest"
    target = Path(values.get("to") or source.with_name(f"{source.stem}-{name}"))
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another to=<folder>")
    factory = functools.partial(make_env, policy.spec.env_id)
    settings = decide_range(request.compress)

    def score(act: OnnxPolicy) -> Returns:
        how = {"episodes": request.eval.episodes, "seed": request.eval.seed}
        return evaluate(act, factory, policy.spec, **how)

    before = score(OnnxPolicy(onnx_bytes(policy)))
    smaller = policy
    search: Search | None = None
    if isinstance(settings, PruneSettings) and share is not None:
        search = Search(
            settings,
            share,
            before,
            lambda trial: prune_policy(policy, trial, request.seed),
            lambda found: score(OnnxPolicy(onnx_bytes(found))),
        )
        settings, smaller = _smallest(search)
    elif isinstance(settings, PruneSettings):
        smaller = prune_policy(policy, settings, request.seed)
    _, model = export_policy(target, smaller, settings, algorithm=algorithm, seed=request.seed)
    if search is not None:
        write_search(target, search.tried, search.target)
    after = score(OnnxPolicy(target / ONNX_FILE))
    size = len(onnx_bytes(policy)), len(model)
    print(f"{source}: {policy.spec.env_id}, return {before.mean:.1f} +- {before.std:.1f}, {size[0] / 1000:.1f} KB")
    print(f"{target}: {settings.label}, return {after.mean:.1f} +- {after.std:.1f}, {size[1] / 1000:.1f} KB")


def _target_return(given: str | None, request: CompressRequest, rest: list[str]) -> float | None:
    """The share of the return that a search must keep; None without one. Raises UserError where none can run."""
    if given is None:
        return None
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"target_return={given}: allowed: a share of the return, more than 0 and at most 1")
    if request.compress.method != "prune_qat":
        raise UserError(f"target_return={given}: allowed with +compress=prune_qat, not {request.compress.method}")
    walked = [a for a in rest if a.partition("=")[0] in ("compress.ratio", "compress.weight_bits")]
    if walked:
        raise UserError(f"{walked[0]}: target_return={given} tries several of them; leave it out")
    if request.eval.episodes < 2:
        raise UserError(f"eval.episodes={request.eval.episodes}: target_return needs pairs; allowed: 2 or more")
    return share


def _smallest(search: Search) -> tuple[PruneSettings, Policy]:
    """What a search ends with. Raises UserError where nothing passed."""
    search.run()
    for tried in search.tried:
        print(
            f"{tried.label}: {tried.tensor_bytes / 1000:.2f} KB, {tried.share:.1%} of the return "
            f"({tried.share_low:.1%} to {tried.share_high:.1%}), {'passes' if tried.passes else 'fails'}"
        )
    if search.best is None:
        raise UserError(
            f"target_return={search.target:g}: not even {search.tried[0].label} keeps it for certain; "
            "more eval.episodes or compress.distill.steps may help"
        )
    return search.best


def _read(source: Path, values: dict[str, str], request: CompressRequest, env_given: bool) -> tuple[Policy, str]:
    """The policy and the name of its algorithm."""
    env_id = request.env.id
    if source.is_dir():
        folder = artifact_of(source)
        contract = check_artifact(folder)
        policy = load_policy(folder)
        if env_given and policy.spec.env_id != env_id:
            raise UserError(f"env.id={env_id}: {source} was made for {policy.spec.env_id}")
        if quantized_layers(policy):
            raise UserError(f"policy={source}: is quantised already; allowed: a policy in float32")
        return policy, contract["algorithm"]
    statistics = values.get("statistics")
    policy = read_sb3(
        source,
        spec_of(env_id),
        activation=values.get("activation"),
        statistics=Path(statistics) if statistics else None,
    )
    return policy, "stable-baselines3"


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
