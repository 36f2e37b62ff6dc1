"""Evaluate a policy beside its fp32 policy: python -m rlc.evaluate run=outputs/.../seed0 episodes=20 video=true"""

from compression.artifact import ONNX_FILE, check_artifact, load_policy
from compression.runtime import OnnxPolicy
from measure import video
from measure.returns import Act, Returns, evaluate, random_policy, summary, zero_policy
from rlc.cli import configured, given_path, run_command
from rlc.config.commands import EvaluateSettings, parse_evaluation
from rlc.config.compose import CONF
from rlc.reporting import console as table
from rlc.runs.find import artifact_of, find_stored_baseline
from rlc.runs.run import ARTIFACT
from trainers.envs.make import env_factory, spec_of, time_limit
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError
from trainers.rng import RngStream

VIDEO_FILE = "video.mp4"


def evaluate_run(arguments: list[str]) -> None:
    """Print returns of a run's policy, of the fp32 policy it comes from, of random and of zero actions."""
    values = configured(arguments, CONF / "evaluate.yaml")
    if not values["run"]:
        raise UserError("run: none given; add run=<directory of a run, or folder of an artifact>")
    settings = parse_evaluation(values)
    folder = given_path(settings.run).resolve()
    artifact = artifact_of(folder)
    contract = check_artifact(artifact)
    spec = load_policy(artifact).spec
    if contract["compression"].get("protocol") == "paper":
        raise UserError(f"run={folder}: was made by protocol=paper, and its result.json holds the paper's scores")
    spec_of(spec.env_id, spec.kwargs)
    if settings.video:
        video.choose_backend(spec)
    policies: dict[str, Act] = {}
    source = find_stored_baseline(folder)
    if source is not None and source != folder:
        policies["fp32"] = OnnxPolicy(source / ARTIFACT / ONNX_FILE)
    policies[contract["compression"]["method"]] = OnnxPolicy(artifact / ONNX_FILE)
    references = {"random action": random_policy(spec, settings.seed), "zero action": zero_policy(spec)}
    played = {name: _play(act, spec, settings) for name, act in (policies | references).items()}
    limit = time_limit(spec)
    fp32 = played.get("fp32")
    rows = {name: summary(own, limit, None if name == "fp32" else fp32) for name, own in played.items()}
    table.show_returns(spec.env_id, rows)
    if settings.video:
        # Not into an artifact: that is exported as it is.
        target = folder.with_name(f"{folder.name}-{VIDEO_FILE}") if artifact == folder else folder / VIDEO_FILE
        print(f"filming {' | '.join(policies)}", flush=True)
        first = spec.reset_seed(RngStream.EVALUATE, settings.seed)
        video.record_video(target, spec, list(policies.values()), first)
        print(target)


def _play(act: Act, spec: EnvSpec, settings: EvaluateSettings) -> Returns:
    return evaluate(act, env_factory(spec), spec, episodes=settings.episodes, seed=settings.seed)


if __name__ == "__main__":
    run_command(evaluate_run)
