"""Evaluate a policy beside its fp32 policy: python -m rlc.evaluate run=outputs/.../seed0 episodes=20 video=true"""

from pathlib import Path

from compression.artifact import ONNX_FILE
from compression.runtime import OnnxPolicy
from measure import video
from measure.returns import Act, Returns, evaluate, random_policy, summary, zero_policy
from rlc.cli import configured, given_path, positional, run_command
from rlc.config.commands import parse_evaluation
from rlc.config.compose import CONF
from rlc.reporting import console
from rlc.runs.find import open_artifact
from rlc.runs.records import MeasuredReturns
from rlc.runs.stored import CONFIG_FILE, StoredRun, load_run
from trainers.envs.make import env_factory, spec_of, time_limit
from trainers.errors import UserError
from trainers.rng import RngStream

VIDEO_FILE = "video.mp4"


def evaluate_run(arguments: list[str]) -> None:
    """Print returns of a run's policy, of the fp32 policy it comes from, of random and of zero actions."""
    values = configured(positional(arguments, "run"), CONF / "evaluate.yaml")
    if not values["run"]:
        raise UserError("run: none given; add run=<directory of a run, or folder of an artifact>")
    settings = parse_evaluation(values)
    folder = given_path(settings.run).resolve()
    artifact = open_artifact(folder)
    compression = artifact.contract["compression"]
    if compression.get("protocol") == "paper":
        raise UserError(f"run={folder}: was made by protocol=paper, and its result.json holds the paper's scores")
    spec = artifact.policy.spec
    spec_of(spec.env_id, spec.kwargs)
    if settings.video:
        video.choose_backend(spec)
    policies: dict[str, Act] = {}
    baseline = _baseline(folder)
    if baseline is not None:
        policies["fp32"] = OnnxPolicy(baseline.artifact / ONNX_FILE)
    policies[compression["method"]] = OnnxPolicy(artifact.folder / ONNX_FILE)
    references = {"random action": random_policy(spec, settings.seed), "zero action": zero_policy(spec)}
    returns = {}
    for name, act in (policies | references).items():
        returns[name] = evaluate(act, env_factory(spec), spec, episodes=settings.episodes, seed=settings.seed)
    console.show_returns(spec.env_id, _rows(returns, time_limit(spec)))
    if settings.video:
        # Not into an artifact: that is exported as it is.
        target = folder / VIDEO_FILE
        if artifact.folder == folder:
            target = folder.with_name(f"{folder.name}-{VIDEO_FILE}")
        print(f"filming {' | '.join(policies)}", flush=True)
        first = spec.reset_seed(RngStream.EVALUATE, settings.seed)
        video.record_video(target, spec, list(policies.values()), first)
        print(target)


def _baseline(folder: Path) -> StoredRun | None:
    """The fp32 run to compare a folder with; None for an artifact alone, and for an fp32 run itself."""
    if not (folder / CONFIG_FILE).exists():
        return None
    baseline = load_run(folder).baseline
    return None if baseline is None or baseline.path == folder else baseline


def _rows(returns: dict[str, Returns], limit: int) -> dict[str, MeasuredReturns]:
    """Summaries by policy, paired with those of fp32 where it was played."""
    fp32 = returns.get("fp32")
    rows = {}
    for name, played in returns.items():
        paired = None if name == "fp32" else fp32
        rows[name] = MeasuredReturns(**summary(played, limit, paired))
    return rows


if __name__ == "__main__":
    run_command(evaluate_run)
