"""Every setting of an algorithm does something."""

import pytest
import torch

from rlc.config.plan import make_plan
from rlc.config.settings import Settings
from rlc.pipeline.build import build_agent
from rlc.pipeline.training import Training, fingerprint
from tests.helpers import ALGORITHMS, Count, spec
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.registry import AGENTS

OFF_POLICY_BASE = {"hidden": "[8,8]", "batch_size": "16", "learning_starts": "20", "buffer_size": "50"}
ON_POLICY_BASE = {"hidden": "[8,8]", "batch_size": "8", "rollout_steps": "20", "num_envs": "1"}
BASE = {
    "trpo": ON_POLICY_BASE,
    "ppo": ON_POLICY_BASE | {"epochs": "2"},
    "ddpg": OFF_POLICY_BASE,
    "td3": OFF_POLICY_BASE,
    "sac": OFF_POLICY_BASE,
}
OFF_POLICY = {
    "hidden": "[8,9]",
    "actor_hidden": "[8,9]",
    "activation": "tanh",
    "actor_lr": "1e-2",
    "critic_lr": "1e-2",
    "gamma": "0.5",
    "tau": "0.5",
    "reward_scale": "0.5",
    "batch_size": "17",
    "buffer_size": "30",
    "learning_starts": "10",
    "updates_per_step": "2",
    "num_envs": "2",
}
ON_POLICY = {
    "hidden": "[8,9]",
    "actor_hidden": "[8,9]",
    "activation": "relu",
    "initial_log_std": "0",
    "gamma": "0.5",
    "gae_lambda": "0.5",
    "batch_size": "7",
    "rollout_steps": "30",
    "num_envs": "2",
}
OTHER = {
    "trpo": ON_POLICY
    | {
        "critic_lr": "1e-2",
        "critic_epochs": "3",
        "max_kl": "0.1",
        "cg_iterations": "2",
        "cg_damping": "1.0",
        "line_search_steps": "1",
        "line_search_decay": "0.5",
    },
    "ppo": ON_POLICY
    | {
        "lr": "1e-2",
        "lr_decay_steps": "60",
        "epochs": "3",
        "clip": "0.0001",
        "entropy_coef": "0.1",
        "value_coef": "5.0",
        "max_grad_norm": "0.01",
        "recompute_advantages": "false",
        "target_kl": "1e-9",
    },
    "ddpg": OFF_POLICY | {"exploration_noise": "0.5"},
    "td3": OFF_POLICY
    | {"exploration_noise": "0.5", "target_noise": "0.5", "target_noise_clip": "0.01", "policy_delay": "3"},
    "sac": OFF_POLICY | {"alpha": "0.5"},
}
# Keys that matter only beside another one.
BESIDE = {
    ("sac", "initial_alpha"): ({"alpha": "auto"}, "0.5"),
    ("sac", "alpha_lr"): ({"alpha": "auto"}, "1e-1"),
    # A trust region so wide that the first steps are refused.
    ("trpo", "line_search_steps"): ({"max_kl": "1000", "line_search_decay": "0.5"}, "1"),
    ("trpo", "line_search_decay"): ({"max_kl": "1000"}, "0.5"),
}


def final_weights(algo: str, changes: dict[str, str]) -> str:
    overrides = [f"algo.{key}={value}" for key, value in (BASE[algo] | changes).items()]
    settings: Settings = make_plan([f"+algo={algo}", "total_steps=60", *overrides]).jobs[0].settings
    of = spec(2, 1, 1.0)
    agent = build_agent(settings.algo, settings.compress, of, [0], torch.device("cpu"))
    for _ in Training(settings, agent, SyncSeedEnvs(Count, of, [0], settings.algo.num_envs)).run(0, random_warmup=True):
        pass
    return fingerprint(agent.state(0))


@pytest.mark.parametrize(
    ("algo", "key"),
    [*BESIDE, *((algo, key) for algo in ALGORITHMS for key in OTHER[algo] if (algo, key) not in BESIDE)],
)
def test_every_key_changes_the_weights(algo: str, key: str) -> None:
    beside, value = BESIDE[algo, key] if (algo, key) in BESIDE else ({}, OTHER[algo][key])
    assert final_weights(algo, beside | {key: value}) != final_weights(algo, beside)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_same_settings_give_the_same_weights(algo: str) -> None:
    assert final_weights(algo, {}) == final_weights(algo, {})


def test_no_key_is_left_out() -> None:
    for algo, agent in AGENTS.items():
        tested = set(OTHER[algo]) | {key for name, key in BESIDE if name == algo}
        assert tested == set(agent.SETTINGS.model_fields) - {"name"}, algo
