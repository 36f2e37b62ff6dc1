"""The only evaluator: deterministic episodes from fixed start states, shared by every policy compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from measure.statistics import paired_difference
from trainers.envs.seed_envs import EnvFactory, check_actions, checked_observation, checked_step
from trainers.envs.spec import EnvSpec
from trainers.rng import RngStream, numpy_stream
from trainers.tensors import FloatArray

Act = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Returns:
    """Undiscounted returns and lengths of a number of episodes."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation over the episodes (divided by n, as the paper does)."""
        return float(np.std(self.returns))


def evaluate(act: Act, make_env: EnvFactory, spec: EnvSpec, *, episodes: int, seed: int | None) -> Returns:
    """Run `episodes` episodes of observation [obs_dim] -> action [act_dim] in an environment of its own.

    Episode k starts from the same state for every policy; `seed` chooses the set of start states, which is
    disjoint from those of training and calibration. With None episodes follow the environment's own stream.
    """
    seeds = [None if seed is None else spec.reset_seed(RngStream.EVALUATE, seed, k) for k in range(episodes)]
    with make_env() as env:
        played = [_episode(act, env, spec, reset_seed) for reset_seed in seeds]
    returns, lengths = zip(*played, strict=True)
    return Returns(returns, lengths)


def summary(returns: Returns, time_limit: int, fp32: Returns | None) -> dict[str, Any]:
    """What is said of a policy's episodes; `fp32` played the same start states, None where there is none to pair."""
    difference: dict[str, float | None] = dict.fromkeys(("mean", "low", "high"))
    if fp32 is not None and len(fp32.returns) > 1:  # one pair has no interval
        paired = paired_difference(np.array(returns.returns), np.array(fp32.returns))
        difference = {"mean": paired.value, "low": paired.low, "high": paired.high}
    return {
        "episodes": len(returns.returns),
        "return_mean": returns.mean,
        "return_std": returns.std,
        "return_median": float(np.median(returns.returns)),
        "early_end_share": float(np.mean(np.array(returns.lengths) < time_limit)),
        **{f"return_difference_to_fp32_{name}": value for name, value in difference.items()},
    }


def random_policy(spec: EnvSpec, seed: int) -> Act:
    """Uniform actions over the action bounds."""
    rng = numpy_stream(RngStream.RANDOM_POLICY, seed)
    low, high = spec.action_bounds()
    return lambda _obs: np.clip(rng.uniform(spec.action_low, spec.action_high).astype(np.float32), low, high)


def zero_policy(spec: EnvSpec) -> Act:
    """The zero action, always; the nearest allowed one where the bounds exclude zero."""
    action = np.clip(np.zeros(spec.act_dim, np.float32), *spec.action_bounds())
    return lambda _obs: action


def _episode(act: Act, env: Any, spec: EnvSpec, seed: int | None) -> tuple[float, int]:
    obs, _ = env.reset(seed=seed)
    total = 0.0
    length = 0
    done = False
    while not done:
        action = check_actions(act(checked_observation(obs, spec)), length)
        obs, reward, terminated, truncated = checked_step(env.step(action), spec.env_id)
        total = total + reward
        length = length + 1
        done = terminated or truncated
    return total, length
