"""The settings of the small commands. Defaults and meanings stand in conf/."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rlc.config.settings import WandbSettings
from rlc.config.types import Name, Seed, parse_model
from trainers.settings import Count, CountOrZero, NotNegative, Rate, Strict


class EnergySettings(Strict):
    """How energy is measured; the values stand in conf/measure.yaml."""

    window_s: Rate
    max_window_s: Rate
    rounds: Count


class Selection(Strict):
    """Which finished runs: names with * and ?, separated by commas; null for all."""

    study: Name
    env: str | None
    algo: str | None
    label: str | None
    seed: str | int | None
    total_steps: str | int | None


class ReportSettings(Selection):
    """What a report is made of; the values stand in conf/report.yaml."""

    wandb: WandbSettings


class DashboardProject(Strict):
    """Where W&B keeps the views; the values stand in conf/dashboard.yaml."""

    project: Annotated[str, Field(min_length=1)]
    entity: str | None


class DashboardSettings(Strict):
    """What is shown; the values stand in conf/dashboard.yaml."""

    study: Name
    wandb: DashboardProject


class MeasureWandbSettings(Strict):
    """What Weights & Biases is told of a measurement; the value stands in conf/measure.yaml."""

    mode: Literal["as_trained", "offline", "online", "disabled"]


class MeasureSettings(Selection):
    """What is measured of which runs; the values stand in conf/measure.yaml."""

    episodes: Count
    calls: Annotated[int, Field(ge=200, multiple_of=200)]
    num_copies: Annotated[int, Field(ge=2)]
    energy: EnergySettings
    wandb: MeasureWandbSettings


class EvaluateSettings(Strict):
    """Which policy is evaluated how; the values stand in conf/evaluate.yaml."""

    run: str | None
    policy: str | None
    baseline: str | None
    episodes: Count
    seed: Seed
    video: bool
    noise: NotNegative
    drop: Annotated[float, Field(ge=0, lt=1)]
    delay: CountOrZero


def shorter_than(settings: MeasureSettings, defaults: MeasureSettings) -> list[str]:
    """What is measured less thoroughly than by default, as `key=value`."""
    short = []
    for key, value in _numbers(settings).items():
        if value < _numbers(defaults)[key]:
            short.append(f"{key}={value:g}")
    return short


def _numbers(settings: MeasureSettings) -> dict[str, float]:
    """The settings that say how thoroughly."""
    energy = {f"energy.{key}": value for key, value in settings.energy.model_dump().items()}
    return {key: getattr(settings, key) for key in ("episodes", "calls", "num_copies")} | energy


def parse_evaluation(data: dict[str, Any]) -> EvaluateSettings:
    """As `parse_settings`, for the settings of an evaluation."""
    return parse_model(EvaluateSettings, data)


def parse_report(data: dict[str, Any]) -> ReportSettings:
    """As `parse_settings`, for the settings of a report."""
    return parse_model(ReportSettings, data)


def parse_dashboard(data: dict[str, Any]) -> DashboardSettings:
    """As `parse_settings`, for views in W&B."""
    return parse_model(DashboardSettings, data)


def parse_measure(data: dict[str, Any]) -> MeasureSettings:
    """As `parse_settings`, for the settings of a measurement."""
    return parse_model(MeasureSettings, data)
