"""Types of settings, and the settings that algorithms share. Defaults and meanings stand in conf/algo/."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _integral(value: Any) -> Any:
    """1e6 is a step count too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ActivationName = Literal["relu", "tanh", "elu", "silu", "leaky_relu", "gelu"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Settings that refuse unknown keys, convert nothing and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OffPolicySettings(Strict):
    """What the algorithms that learn from a replay buffer share; each one narrows `name` to its own."""

    name: str
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


class OnPolicySettings(Strict):
    """What the algorithms that learn from rollouts of the current policy share; each one narrows `name` to its own."""

    name: str
    hidden: Annotated[list[Count], Field(min_length=1)]
    activation: ActivationName
    initial_log_std: Annotated[float, Field(ge=-20, le=2)]
    gamma: Fraction
    gae_lambda: Fraction
    batch_size: Count
    rollout_steps: Count
    num_envs: Count


AlgoSettings = OffPolicySettings | OnPolicySettings
