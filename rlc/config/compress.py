"""Settings of the ways of compression. Defaults and meanings stand in conf/compress/."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlc.config.types import BoolOrAuto
from trainers.settings import Count, CountOrZero, Rate, Strict


class MethodSettings(Strict):
    """A way of compression; `label` names its run directories."""

    method: str

    @property
    def label(self) -> str:
        return self.method


class FP32Settings(MethodSettings):
    """No compression."""

    method: Literal["fp32"] = "fp32"


class QATSettings(MethodSettings):
    """Quantisation-aware training; the values stand in conf/compress/qat.yaml."""

    method: Literal["qat"]
    reduce_range: BoolOrAuto


class PTDQSettings(MethodSettings):
    """Post-training dynamic quantisation; the values stand in conf/compress/ptdq.yaml."""

    method: Literal["ptdq"]
    calibration_steps: Count
    reduce_range: BoolOrAuto


class PTSQSettings(MethodSettings):
    """Post-training static quantisation; the values stand in conf/compress/ptsq.yaml."""

    method: Literal["ptsq"]
    calibration_steps: Count
    calibration: Literal["minmax", "entropy", "percentile"]
    percentile: Annotated[float, Field(gt=50, le=100)]
    reduce_range: BoolOrAuto


class DistillSettings(Strict):
    """How a compressed policy learns from the one it was made of."""

    rounds: CountOrZero
    states: Count
    steps: Count
    batch_size: Count
    lr: Rate


class SparsitySettings(Strict):
    """Training towards prunable weights, before units are removed."""

    steps: CountOrZero
    reg: Rate
    batch_size: Count
    lr: Rate


class PruneSettings(MethodSettings):
    """Structured pruning; the values stand in conf/compress/prune_*.yaml."""

    method: Literal["prune_l1", "prune_l2", "prune_ptdq", "prune_ptsq", "prune_qat"]
    ratio: Annotated[float, Field(gt=0, lt=1)]
    norm: Literal[1, 2]
    reduction: Literal["mean", "sum", "max", "prod", "first"]
    normalizer: Literal["mean", "sum", "max", "standarization", "gaussian"] | None
    bias: bool
    sparsity: SparsitySettings
    finetune: Literal["none", "distill", "rl"]
    distill: DistillSettings
    rl_steps: Count
    calibration_steps: Count
    calibration: Literal["minmax", "entropy", "percentile"]
    percentile: Annotated[float, Field(gt=50, le=100)]
    reduce_range: BoolOrAuto

    @property
    def label(self) -> str:
        exact = f"{self.ratio:.2f}" if round(self.ratio, 2) == self.ratio else f"{self.ratio:g}"
        return f"{self.method}-{exact}"

    @property
    def quantization(self) -> str:
        """ptdq, ptsq or qat; none for pruning alone."""
        name = self.method.removeprefix("prune_")
        return "none" if name in ("l1", "l2") else name

    @model_validator(mode="after")
    def _check_together(self) -> "PruneSettings":
        if self.quantization == "qat" and self.finetune == "none":
            raise ValueError("compress.finetune=none: prune_qat trains the pruned policy; allowed: distill, rl")
        return self


# Methods that compress an fp32 run that is trained already.
DERIVED_METHODS = ("ptdq", "ptsq", "prune_l1", "prune_l2", "prune_ptdq", "prune_ptsq", "prune_qat")
# Methods of arXiv 2407.04803.
PAPER_METHODS = ("fp32", "ptdq", "ptsq", "qat", "prune_l1", "prune_l2")
CompressSettings = Annotated[
    FP32Settings | QATSettings | PTDQSettings | PTSQSettings | PruneSettings, Field(discriminator="method")
]
