"""Types of settings, and the settings that algorithms share. Defaults and meanings stand in conf/algo/."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def _integral(value: Any) -> Any:
    """1e6 is a step count too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ActivationName = Literal["relu", "tanh", "elu", "silu", "leaky_relu", "gelu"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Widths = Annotated[list[Count], Field(min_length=1)]


class Strict(BaseModel):
    """Settings that refuse unknown keys, convert nothing and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NetworkSettings(Strict):
    """The networks of an algorithm, which narrows `name` to its own."""

    name: str
    hidden: Widths
    # Records older than the setting lack it: then the actor is as wide as the critics.
    actor_hidden: Widths | None = None
    activation: ActivationName

    @field_validator("actor_hidden")
    @classmethod
    def _null_where_as_the_critics(cls, widths: list[int] | None, info: ValidationInfo) -> list[int] | None:
        """One training has one identity: the critics' widths, spelled out, are the default."""
        return None if widths == info.data.get("hidden") else widths

    @property
    def actor_widths(self) -> list[int]:
        """Widths of the actor's hidden layers."""
        return self.actor_hidden or self.hidden


class OffPolicySettings(NetworkSettings):
    """What the algorithms that learn from a replay buffer share."""

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


class OnPolicySettings(NetworkSettings):
    """What the algorithms that learn from rollouts of the current policy share."""

    initial_log_std: Annotated[float, Field(ge=-20, le=2)]
    gamma: Fraction
    gae_lambda: Fraction
    batch_size: Count
    rollout_steps: Count
    num_envs: Count


AlgoSettings = OffPolicySettings | OnPolicySettings
