"""Settings of the algorithms. Defaults and meanings stand in conf/algo/."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rlc.config.types import Count, CountOrZero, Fraction, NotNegative, Rate, Strict
from trainers.nn.activations import ActivationName


class OffPolicySettings(Strict):
    """What the algorithms that learn from a replay memory share."""

    # Of the loop and the replay memory; the other settings are the agent's own.
    LOOP: ClassVar = frozenset(
        (
            "name",
            "gamma",
            "reward_scale",
            "batch_size",
            "buffer_size",
            "learning_starts",
            "updates_per_step",
            "num_envs",
        )
    )

    hidden: Annotated[list[Count], Field(min_length=1)]
    activation: ActivationName
    actor_lr: Rate
    critic_lr: Rate
    gamma: Fraction
    tau: Annotated[float, Field(gt=0, le=1)]
    reward_scale: Rate
    batch_size: Count
    buffer_size: Count
    learning_starts: CountOrZero
    updates_per_step: Count
    num_envs: Count


class DDPGSettings(OffPolicySettings):
    """Settings of DDPG; the values stand in conf/algo/ddpg.yaml."""

    name: Literal["ddpg"]
    exploration_noise: NotNegative


class TD3Settings(OffPolicySettings):
    """Settings of TD3; the values stand in conf/algo/td3.yaml."""

    name: Literal["td3"]
    exploration_noise: NotNegative
    target_noise: NotNegative
    target_noise_clip: NotNegative
    policy_delay: Count


class SACSettings(OffPolicySettings):
    """Settings of SAC; the values stand in conf/algo/sac.yaml."""

    name: Literal["sac"]
    alpha: Rate | Literal["auto"]
    initial_alpha: Rate
    alpha_lr: Rate


class OnPolicySettings(Strict):
    """What the algorithms that learn from rollouts of the current policy share."""

    LOOP: ClassVar = frozenset(("name", "rollout_steps", "num_envs"))

    hidden: Annotated[list[Count], Field(min_length=1)]
    activation: ActivationName
    initial_log_std: Annotated[float, Field(ge=-20, le=2)]
    gamma: Fraction
    gae_lambda: Fraction
    batch_size: Count
    rollout_steps: Count
    num_envs: Count


class PPOSettings(OnPolicySettings):
    """Settings of PPO; the values stand in conf/algo/ppo.yaml."""

    name: Literal["ppo"]
    lr: Rate
    lr_decay_steps: Count | None
    epochs: Count
    clip: Rate
    entropy_coef: NotNegative
    value_coef: NotNegative
    max_grad_norm: Rate
    recompute_advantages: bool
    target_kl: Rate | None


class TRPOSettings(OnPolicySettings):
    """Settings of TRPO; the values stand in conf/algo/trpo.yaml."""

    name: Literal["trpo"]
    critic_lr: Rate
    critic_epochs: Count
    max_kl: Rate
    cg_iterations: Count
    cg_damping: NotNegative
    line_search_steps: Count
    line_search_decay: Annotated[float, Field(gt=0, lt=1)]


AlgoSettings = Annotated[
    TRPOSettings | PPOSettings | DDPGSettings | TD3Settings | SACSettings, Field(discriminator="name")
]
