"""Settings of the ways of compression. Defaults and meanings stand in conf/compress/."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compression.lowbit import Bits
from rlc.config.types import BoolOrAuto
from trainers.settings import Count, CountOrZero, Rate, Strict

BitWidth = Literal[8, 6, 4, 3, 2]
BIT_SETTINGS = ("weight_bits", "activation_bits", "input_bits")


class MethodSettings(Strict):
    """A way of compression; `label` names its run directories."""

    method: str

    @property
    def label(self) -> str:
        return self.method


class FP32Settings(MethodSettings):
    """No compression."""

    method: Literal["fp32"] = "fp32"


class QuantizedSettings(MethodSettings):
    """A way of compression whose grids may have fewer than eight bits, which records older than the settings have."""

    weight_bits: BitWidth = 8
    activation_bits: BitWidth = 8
    input_bits: BitWidth = 8

    @property
    def bits(self) -> Bits:
        return Bits(self.weight_bits, self.activation_bits, self.input_bits)

    @property
    def label(self) -> str:
        if not self.bits.low:
            return self.method
        name = f"{self.method}-w{self.weight_bits}a{self.activation_bits}"
        return name if self.input_bits == 8 else f"{name}i{self.input_bits}"


class QATSettings(QuantizedSettings):
    """Quantisation-aware training; the values stand in conf/compress/qat.yaml."""

    method: Literal["qat"]
    reduce_range: BoolOrAuto


class PTDQSettings(MethodSettings):
    """Post-training dynamic quantisation; the values stand in conf/compress/ptdq.yaml."""

    method: Literal["ptdq"]
    calibration_steps: Count
    reduce_range: BoolOrAuto


class PTSQSettings(QuantizedSettings):
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


class PruneSettings(QuantizedSettings):
    """Structured pruning; the values stand in conf/compress/prune_*.yaml."""

    method: Literal["prune_l1", "prune_l2", "prune_ptdq", "prune_ptsq", "prune_qat"]
    ratio: Annotated[float, Field(ge=0, lt=1)]
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
        widths = {"w": self.weight_bits, "a": self.activation_bits, "i": self.input_bits}
        fewer = "".join(f"{letter}{bits}" for letter, bits in widths.items() if bits < 8)
        return f"{self.method}-{exact}-{fewer}" if fewer else f"{self.method}-{exact}"

    @property
    def quantization(self) -> str:
        """ptdq, ptsq or qat; none for pruning alone."""
        name = self.method.removeprefix("prune_")
        return "none" if name in ("l1", "l2") else name

    @model_validator(mode="after")
    def _check_together(self) -> "PruneSettings":
        if self.ratio == 0 and self.quantization != "qat":
            raise ValueError(f"compress.ratio=0: nothing would be pruned; allowed with {self.method}: more than 0")
        if self.quantization in ("none", "ptdq"):
            for key in BIT_SETTINGS:
                if getattr(self, key) != 8:
                    raise ValueError(f"compress.{key}={getattr(self, key)}: allowed with {self.method}: 8")
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
