"""The evaluator: deterministic, paired, on start states of its own."""

import numpy as np

from measure.returns import Returns, evaluate, random_policy, zero_policy
from tests.helpers import Count, spec
from trainers.data.rollout import collect_observations
from trainers.envs.spec import EnvSpec
from trainers.tensors import FloatArray

OF = spec(2, 1, 1.0)


def test_returns_are_undiscounted_sums_to_the_true_end() -> None:
    returns = evaluate(zero_policy(OF), Count, OF, episodes=3, seed=0)
    for total, length in zip(returns.returns, returns.lengths, strict=True):
        episode = (total - length * (length + 1) / 2) / (10 * length)
        assert episode == int(episode)
        assert length == (3 if episode % 2 == 0 else 5)


def test_mean_and_population_standard_deviation() -> None:
    returns = Returns((1.0, 3.0, 8.0), (1, 1, 1))
    assert returns.mean == 4.0
    np.testing.assert_allclose(returns.std, np.sqrt((9 + 1 + 16) / 3))


def test_start_states_are_shared_and_chosen_by_the_seed() -> None:
    def lengths(seed: int) -> tuple[int, ...]:
        return evaluate(zero_policy(OF), Count, OF, episodes=20, seed=seed).lengths

    assert lengths(0) == lengths(0)
    assert lengths(0) != lengths(1)


def test_the_zero_action_keeps_to_the_bounds() -> None:
    bounded = EnvSpec("Test-v0", 2, 3, (-1.0, 1.0, -3.0), (1.0, 2.0, -2.0))
    assert zero_policy(bounded)(np.zeros(2, np.float32)).tolist() == [0.0, 1.0, -2.0]


def test_random_actions_are_repeatable_and_fill_the_bounds() -> None:
    first, again = random_policy(OF, 0), random_policy(OF, 0)
    obs = np.zeros(2, np.float32)
    actions = np.concatenate([first(obs) for _ in range(500)])
    assert np.array_equal(actions, np.concatenate([again(obs) for _ in range(500)]))
    assert actions.min() < -0.98
    assert actions.max() > 0.98
    assert np.abs(actions).max() <= 1


def test_visited_observations_are_what_the_policy_saw() -> None:
    seen: list[FloatArray] = []

    def act(obs: FloatArray) -> FloatArray:
        seen.append(obs.copy())
        return np.zeros(1, np.float32)

    visited = collect_observations(act, Count, OF, seed=3, steps=12)
    assert visited.shape == (12, 2)
    assert np.array_equal(visited, np.stack(seen))
    assert (visited[0, 1], visited[1, 1]) == (0, 1)
