"""Evaluate a policy beside its fp32 policy: python -m rlc.evaluate run=outputs/.../seed0 episodes=20 video=true

With noise=, drop= or delay= also behind disturbed sensors, the same for every policy.
"""

from pathlib import Path

import numpy as np

from compression.files import ONNX_FILE
from compression.runtime import OnnxPolicy
from measure import video
from measure.disturbance import Disturbance, disturbed, observation_std
from measure.returns import Act, Returns, evaluate, random_policy, summary, zero_policy
from rlc.cli import configured, positional, run_command
from rlc.config.commands import EvaluateSettings, parse_evaluation
from rlc.datafiles import CONF
from rlc.messages import counted
from rlc.packing.zoo import given_policy
from rlc.reporting import console
from rlc.runs.files import CONFIG_FILE
from rlc.runs.find import Artifact, open_artifact
from rlc.runs.records import MeasuredReturns
from rlc.runs.stored import load_run
from trainers.envs.make import env_factory, spec_of, time_limit
from trainers.envs.seed_envs import EnvFactory
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError
from trainers.rng import RngStream

VIDEO_FILE = "video.mp4"


def evaluate_run(arguments: list[str]) -> None:
    """Print returns of a run's policy, of the fp32 policy it comes from, of random and of zero actions."""
    settings = parse_evaluation(configured(positional(arguments, "run"), CONF / "evaluate.yaml"))
    folder = given_policy(_given(settings)).resolve()
    artifact = open_artifact(folder)
    compression = artifact.contract["compression"]
    if compression.get("protocol") == "paper":
        raise UserError(
            f"run={folder}: was made by protocol=paper, and its result.json holds the paper's scores; "
            "give a run of protocol=ours"
        )
    spec = artifact.policy.spec
    spec_of(spec.env_id, spec.kwargs)
    if settings.video:
        video.choose_backend(spec)
    policies: dict[str, Act] = {}
    baseline = _baseline(folder, artifact, settings.baseline)
    if baseline is not None:
        policies["fp32"] = OnnxPolicy(baseline / ONNX_FILE)
    policies[compression["method"]] = OnnxPolicy(artifact.folder / ONNX_FILE)
    disturbance = Disturbance(settings.noise, settings.drop, settings.delay)
    if disturbance.noise and "fp32" not in policies:
        raise UserError(f"noise={settings.noise:g}: is a share of what fp32 sees, and {folder} has none; add baseline=")
    references = {"random action": random_policy(spec, settings.seed), "zero action": zero_policy(spec)}
    _play(policies | references, env_factory(spec), spec, settings)
    if not disturbance.is_none:
        print(f"behind disturbed sensors: {disturbance}", flush=True)
        std = np.zeros(spec.obs_dim, np.float32)
        if disturbance.noise:
            std = observation_std(policies["fp32"], spec, settings.seed)
        _play(policies, disturbed(env_factory(spec), disturbance, std), spec, settings)
    if settings.video:
        # Not into an artifact: that is exported as it is.
        target = folder / VIDEO_FILE
        if artifact.folder == folder:
            target = folder.with_name(f"{folder.name}-{VIDEO_FILE}")
        print(f"filming {' | '.join(policies)}", flush=True)
        first = spec.reset_seed(RngStream.EVALUATE, settings.seed)
        video.record_video(target, spec, list(policies.values()), first)
        print(target)


def _given(settings: EvaluateSettings) -> str:
    """What is evaluated, as the command line names it."""
    given = [text for text in (settings.run, settings.policy) if text]
    if not given:
        raise UserError("run: none given; add run=<directory of a run, or folder of an artifact> or policy=zoo:<name>")
    if len(given) > 1:
        raise UserError(f"policy={settings.policy}: run is given too; give one of them")
    return given[0]


def _baseline(folder: Path, artifact: Artifact, given: str | None) -> Path | None:
    """Artifact of the fp32 policy to compare a folder with; None where there is none, or it is one itself.

    Raises UserError for a baseline that is not in float32 or acts in another environment.
    """
    if given:
        return _given_baseline(artifact, given)
    if not (folder / CONFIG_FILE).exists():
        return None
    baseline = load_run(folder).baseline
    return None if baseline is None or baseline.path == folder else baseline.artifact


def _given_baseline(artifact: Artifact, given: str) -> Path:
    baseline = open_artifact(given_policy(given))
    if artifact.contract["compression"]["method"] == "fp32":
        raise UserError(f"baseline={given}: {artifact.folder} is in float32 itself; leave it out")
    if baseline.contract["compression"]["method"] != "fp32":
        raise UserError(f"baseline={given}: is compressed; allowed: a policy in float32")
    if baseline.contract["environment"] != artifact.contract["environment"]:
        env_id = artifact.policy.spec.env_id
        raise UserError(f"baseline={given}: acts in another environment; allowed: a policy for {env_id}")
    return baseline.folder


def _play(policies: dict[str, Act], make_env: EnvFactory, spec: EnvSpec, settings: EvaluateSettings) -> None:
    """Play and show policies on the same start states."""
    returns = {}
    for name, act in policies.items():
        print(f"evaluating {name}: {counted(settings.episodes, 'episode')}", flush=True)
        returns[name] = evaluate(act, make_env, spec, episodes=settings.episodes, seed=settings.seed)
    console.show_returns(spec.env_id, _rows(returns, time_limit(spec)))


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
