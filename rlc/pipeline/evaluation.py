"""Evaluate a policy on the start states of the settings."""

from measure.returns import Act, Returns, evaluate
from rlc.config.settings import Settings
from trainers.envs import make as envs


def evaluate_policy(act: Act, settings: Settings) -> Returns:
    """Evaluate a policy on the start states of the settings."""
    env_id = settings.env.id
    return evaluate(
        act,
        lambda: envs.make_env(env_id),
        envs.spec_of(env_id),
        episodes=settings.eval.episodes,
        seed=settings.eval.seed,
    )
