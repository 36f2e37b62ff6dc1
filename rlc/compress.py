"""Compress a policy you have: python -m rlc.compress policy=<artifact or file> +compress=ptsq env=hopper"""

from pathlib import Path
from typing import Any

from compression.artifact import add_origin, quantized_layers
from compression.files import ONNX_FILE
from compression.imports.layers import Request
from compression.imports.read import FORMATS, read_foreign
from compression.onnx_export import onnx_bytes
from compression.runtime import OnnxPolicy
from measure.returns import Returns, evaluate
from rlc.cli import given_path, positional, run_command, split
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import CompressRequest, parse_request
from rlc.messages import counted, warn
from rlc.packing.zoo import given_policy
from rlc.pipeline.protocol import export_policy
from rlc.pipeline.prune import prune_policy
from rlc.pipeline.smallest import Candidate, Search, write_search
from rlc.runs.find import open_artifact
from rlc.runs.provenance import provenance
from rlc.sources import joined
from trainers.envs.make import env_factory
from trainers.errors import UserError
from trainers.nn.activations import ACTIVATIONS
from trainers.policy import Policy

# What is said of a file alone: an artifact knows it.
OF_A_FILE = ("statistics", "activation", "actions")
OWN = ("policy", *OF_A_FILE, "to", "target_return")
Origin = dict[str, Any]
ALLOWED = {"activation": tuple(ACTIVATIONS), "actions": ("rescale", "clip")}


def compress(arguments: list[str]) -> None:
    """Read, compress, check, evaluate both, and write an artifact to `to`.

    With `target_return`, a share of the return, the smallest that keeps it is looked for first.
    """
    values, rest = split(positional(joined(arguments), "policy"), OWN)
    if not values.get("policy"):
        sources = f"<folder of an artifact>, zoo:<name>, or a file: {', '.join(FORMATS)}"
        raise UserError(f"policy: none given; add policy={sources}")
    for key, allowed in ALLOWED.items():
        if key in values and values[key] not in allowed:
            raise UserError(f"{key}={values[key]}: unknown; allowed: {', '.join(allowed)}")
    request = parse_request(compose_groups(rest))
    share = _target_return(values.get("target_return"), request, rest)
    source = given_policy(values["policy"])
    env_given = any(argument.partition("=")[0] in ("env", "env.id") for argument in rest)
    policy, algorithm, origin = _read(source, values, request, env_given=env_given)
    name = request.compress.label if share is None else "smallest"
    target = given_path(values["to"]) if values.get("to") else source.with_name(f"{source.stem}-{name}")
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another to=<folder>")
    factory = env_factory(policy.spec)
    settings = decide_range(request.compress)

    original = onnx_bytes(policy)
    episodes = {"episodes": request.eval.episodes, "seed": request.eval.seed}

    def score(act: OnnxPolicy) -> Returns:
        return evaluate(act, factory, policy.spec, **episodes)

    print(f"evaluating {source}: {counted(request.eval.episodes, 'episode')}", flush=True)
    before = score(OnnxPolicy(original))
    print(f"compressing: {_aim(settings.label, share)}", flush=True)
    smaller = policy
    search: Search | None = None
    if isinstance(settings, PruneSettings) and share is not None:
        search = Search(
            settings,
            share,
            before,
            lambda trial: prune_policy(policy, trial, request.seed),
            lambda found: score(OnnxPolicy(onnx_bytes(found))),
            _tell,
        )
        settings, smaller = _smallest(search)
    elif isinstance(settings, PruneSettings):
        smaller = prune_policy(policy, settings, request.seed)
    _, model = export_policy(target, smaller, settings, algorithm=algorithm, seed=request.seed)
    if search is not None:
        write_search(target, search.tried, search.target)
    print(f"evaluating {target}", flush=True)
    after = score(OnnxPolicy(target / ONNX_FILE))
    score_text = f"{after.mean:.1f} +- {after.std:.1f}"
    made_here = {"compressed from": source.name, "commit": provenance().git_commit, "return": score_text}
    add_origin(target, origin | made_here)
    kilobytes = len(original) / 1000
    print(f"{source}: {policy.spec.env_id}, return {before.mean:.1f} +- {before.std:.1f}, {kilobytes:.1f} KB")
    print(f"{target}: {settings.label}, return {score_text}, {len(model) / 1000:.1f} KB")


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


def _aim(label: str, share: float | None) -> str:
    return label if share is None else f"looking for the smallest that keeps {share:.0%} of the return"


def _tell(tried: Candidate) -> None:
    print(
        f"{tried.label}: {tried.tensor_bytes / 1000:.2f} KB, {tried.share:.1%} of the return "
        f"({tried.share_low:.1%} to {tried.share_high:.1%}), {'passes' if tried.passes else 'fails'}",
        flush=True,
    )


def _smallest(search: Search) -> tuple[PruneSettings, Policy]:
    """What a search ends with. Raises UserError where nothing passed."""
    search.run()
    if search.best is None:
        raise UserError(
            f"target_return={search.target:g}: not even {search.tried[0].label} keeps it for certain; "
            "more eval.episodes or compress.distill.steps may help"
        )
    return search.best


def _read(
    source: Path, values: dict[str, str], request: CompressRequest, env_given: bool
) -> tuple[Policy, str, Origin]:
    """The policy, the name of its algorithm, and which run and seed an artifact came from."""
    env_id = request.env.id
    if source.is_dir():
        for key in OF_A_FILE:
            if key in values:
                raise UserError(f"{key}={values[key]}: {source} is an artifact, which says it; leave {key} out")
        _, contract, policy = open_artifact(source)
        if env_given and policy.spec.env_id != env_id:
            raise UserError(f"env.id={env_id}: {source} was made for {policy.spec.env_id}; leave it out")
        if request.env.kwargs and request.env.kwargs != policy.spec.kwargs:
            made = dict(policy.spec.kwargs)
            raise UserError(f"env.kwargs={request.env.kwargs}: {source} was made with {made}; leave it out")
        if quantized_layers(policy):
            raise UserError(f"policy={source}: is quantised already; allowed: a policy in float32")
        known = contract.get("origin", {})
        return policy, contract["algorithm"], {key: known[key] for key in ("run", "seed") if key in known}
    if not env_given:
        raise UserError(f"env: none given, and {source} does not name its environment; add env=<name> or env.id=<id>")
    said = {key: values.get(key) for key in OF_A_FILE}
    imported = read_foreign(Request(source, request.env.spec(), **said))
    for note in imported.notes:
        warn(note)
    return imported.policy, imported.algorithm, {}


if __name__ == "__main__":
    run_command(compress)
