"""Every setting of an algorithm does something."""

import pytest
import torch

from rlc.build import build_agent
from rlc.fit import fingerprint, start_loop
from rlc.plan import make_plan
from rlc.settings import Settings
from tests.conftest import spec
from tests.test_replay import Count
from trainers.rollout import SeedEnvs

BASE = {
    "hidden": "[8,8]",
    "batch_size": "16",
    "learning_starts": "20",
    "buffer_size": "50",
}
OTHER = {
    "hidden": "[8,9]",
    "activation": "tanh",
    "actor_lr": "1e-2",
    "critic_lr": "1e-2",
    "alpha": "0.5",
    "gamma": "0.5",
    "tau": "0.5",
    "batch_size": "17",
    "buffer_size": "30",
    "learning_starts": "10",
    "updates_per_step": "2",
    "num_envs": "2",
}
WITH_AUTO = {"initial_alpha": "0.5", "alpha_lr": "1e-1"}


def final_weights(changes: dict[str, str]) -> str:
    overrides = [f"algo.{key}={value}" for key, value in (BASE | changes).items()]
    settings: Settings = make_plan(["+algo=sac", "total_steps=60", *overrides]).jobs[0].settings
    of = spec(2, 1, 1.0)
    agent = build_agent(settings.algo, settings.compress, of, [0], torch.device("cpu"))
    for _ in start_loop(settings, agent, SeedEnvs(Count, of, [0], settings.algo.num_envs)):
        pass
    return fingerprint(agent.state(0))


@pytest.mark.parametrize("key", OTHER)
def test_every_key_changes_the_weights(key: str) -> None:
    assert final_weights({key: OTHER[key]}) != final_weights({})


@pytest.mark.parametrize("key", WITH_AUTO)
def test_every_key_of_the_learned_temperature_changes_the_weights(key: str) -> None:
    auto = {"alpha": "auto"}
    assert final_weights(auto | {key: WITH_AUTO[key]}) != final_weights(auto)


def test_the_same_settings_give_the_same_weights() -> None:
    assert final_weights({}) == final_weights({})


def test_no_key_is_left_out() -> None:
    from rlc.settings import SACSettings

    assert set(OTHER) | set(WITH_AUTO) == set(SACSettings.model_fields) - {"name"}
