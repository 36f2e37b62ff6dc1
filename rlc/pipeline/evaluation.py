"""Evaluate a policy on the start states of the settings."""

from measure.returns import Act, Returns, evaluate
from rlc.config.settings import Settings
from trainers.envs.make import make_env, spec_of


def evaluate_policy(act: Act, settings: Settings) -> Returns:
    """Evaluate a policy on the start states of the settings."""
    env_id = settings.env.id
    return evaluate(
        act,
        lambda: make_env(env_id),
        spec_of(env_id),
        episodes=settings.eval.episodes,
        seed=settings.eval.seed,
    )
