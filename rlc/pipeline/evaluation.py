"""Evaluate a policy on the start states of a run."""

from measure.returns import Act, Returns, evaluate
from rlc.config.settings import EvalSettings
from rlc.runs.stored import StoredRun


def evaluate_policy(act: Act, run: StoredRun, settings: EvalSettings) -> Returns:
    """Episodes in the environment of a run. `act`: observation [obs_dim] -> action [act_dim]."""
    return evaluate(act, run.make_env, run.spec, episodes=settings.episodes, seed=settings.seed)
