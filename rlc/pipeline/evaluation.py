"""Evaluate a policy on the start states of the settings."""

from measure.returns import Act, Returns, evaluate
from rlc.config.settings import Settings
from trainers.envs.make import env_factory


def evaluate_policy(act: Act, settings: Settings) -> Returns:
    """Evaluate a policy on the start states of the settings."""
    spec = settings.env.spec()
    return evaluate(
        act,
        env_factory(spec),
        spec,
        episodes=settings.eval.episodes,
        seed=settings.eval.seed,
    )
