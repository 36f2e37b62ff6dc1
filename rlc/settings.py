"""The shape of a configuration: types and allowed values. Defaults and meanings stand in conf/, once."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from trainers.errors import UserError


def _integral(value: Any) -> Any:
    """1e6 is a step count too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
    activation: Literal["relu", "tanh"]
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
    name: Literal["ddpg"]
    exploration_noise: NotNegative


class TD3Settings(OffPolicySettings):
    name: Literal["td3"]
    exploration_noise: NotNegative
    target_noise: NotNegative
    target_noise_clip: NotNegative
    policy_delay: Count


class SACSettings(OffPolicySettings):
    name: Literal["sac"]
    alpha: Rate | Literal["auto"]
    initial_alpha: Rate
    alpha_lr: Rate


class OnPolicySettings(Strict):
    """What the algorithms that learn from rollouts of the current policy share."""

    LOOP: ClassVar = frozenset(("name", "rollout_steps", "num_envs"))

    hidden: Annotated[list[Count], Field(min_length=1)]
    activation: Literal["relu", "tanh"]
    initial_log_std: Annotated[float, Field(ge=-20, le=2)]
    gamma: Fraction
    gae_lambda: Fraction
    batch_size: Count
    rollout_steps: Count
    num_envs: Count


class PPOSettings(OnPolicySettings):
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
    name: Literal["trpo"]
    critic_lr: Rate
    critic_epochs: Count
    max_kl: Rate
    cg_iterations: Count
    cg_damping: NotNegative
    line_search_steps: Count
    line_search_decay: Annotated[float, Field(gt=0, lt=1)]


class MethodSettings(Strict):
    """A way of compression; `label` names its run directories."""

    method: str

    @property
    def label(self) -> str:
        return self.method


class FP32Settings(MethodSettings):
    method: Literal["fp32"] = "fp32"


# `auto` is what this machine needs or can do: `rlc.decide` replaces it before a job runs.
BoolOrAuto = bool | Literal["auto"]


def decided(value: BoolOrAuto) -> bool:
    """The value of a setting that a job runs with."""
    if value == "auto":
        raise ValueError("a setting is still auto: rlc.decide must see it first")
    return value


class QATSettings(MethodSettings):
    method: Literal["qat"]
    reduce_range: BoolOrAuto


class PTDQSettings(MethodSettings):
    method: Literal["ptdq"]
    calibration_steps: Count
    reduce_range: BoolOrAuto


class PTSQSettings(MethodSettings):
    method: Literal["ptsq"]
    calibration_steps: Count
    calibration: Literal["minmax", "entropy", "percentile"]
    percentile: Annotated[float, Field(gt=50, le=100)]
    reduce_range: BoolOrAuto


class DistillSettings(Strict):
    rounds: CountOrZero
    states: Count
    steps: Count
    batch_size: Count
    lr: Rate


class SparsitySettings(Strict):
    steps: CountOrZero
    reg: Rate
    batch_size: Count
    lr: Rate


class PruneSettings(MethodSettings):
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

AlgoSettings = Annotated[
    TRPOSettings | PPOSettings | DDPGSettings | TD3Settings | SACSettings, Field(discriminator="name")
]
CompressSettings = Annotated[
    FP32Settings | QATSettings | PTDQSettings | PTSQSettings | PruneSettings, Field(discriminator="method")
]


class EnvSettings(Strict):
    name: str
    version: str
    id: str


class EvalSettings(Strict):
    episodes: Count
    along: CountOrZero
    seed: Seed


class WandbSettings(Strict):
    mode: Literal["offline", "online", "disabled"]
    project: Annotated[str, Field(min_length=1)]
    entity: str | None


class Settings(Strict):
    """All settings of one job, as resolved from conf/ and the command line."""

    algo: AlgoSettings
    compress: CompressSettings
    env: EnvSettings
    study: Name
    seed: Annotated[list[Seed], Field(min_length=1)]
    total_steps: Count
    protocol: Literal["ours", "paper"]
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,2})?)$")]
    threads: Annotated[int, Field(ge=1, le=1024)]
    precision: Literal["fp32", "bf16"]
    compile: BoolOrAuto
    overlap: bool
    env_workers: Annotated[int, Field(ge=0, le=1024)]
    checkpoint_every: Count | None
    overwrite: bool
    fail_fast: bool
    eval: EvalSettings
    wandb: WandbSettings

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        seed = data.get("seed")
        return data | {
            "compress": data.get("compress") or {"method": "fp32"},
            "seed": seed if isinstance(seed, list) else [seed],
        }

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        algo = self.algo
        if len(set(self.seed)) < len(self.seed):
            raise ValueError(f"seed={self.seed}: a seed stands in the list twice")
        steps = {"total_steps": self.total_steps}
        if isinstance(self.compress, PruneSettings) and self.compress.finetune == "rl":
            steps["compress.rl_steps"] = self.compress.rl_steps
        counts = dict(steps)
        if isinstance(algo, OffPolicySettings):
            counts["algo.buffer_size"] = algo.buffer_size
            for key, value in steps.items():
                if value <= algo.learning_starts:
                    raise ValueError(
                        f"{key}={value}: must be larger than algo.learning_starts={algo.learning_starts}, "
                        "or nothing would be trained"
                    )
            self._check_multiples(counts)
        else:
            if self.precision != "fp32":
                raise ValueError(f"precision={self.precision}: allowed with {algo.name}: fp32")
            if self.overlap:
                raise ValueError(f"overlap=true: {algo.name} learns from whole rollouts; allowed with it: false")
        if isinstance(algo, PPOSettings) and algo.lr_decay_steps is not None:
            for key, value in steps.items():
                if algo.lr_decay_steps < value:
                    raise ValueError(
                        f"algo.lr_decay_steps={algo.lr_decay_steps}: with {key}={value} the learning rate would be 0 "
                        f"before the end; allowed: {value} or more, null"
                    )
        if self.compile is True and self.device != "cpu":
            raise ValueError(f"compile=true: it is for device=cpu, not {self.device}; allowed there: false, auto")
        if self.protocol == "paper":
            self._check_published()
        return self

    def _check_multiples(self, counts: dict[str, int]) -> None:
        """Off-policy every environment of a seed takes the same number of steps."""
        num_envs = self.algo.num_envs
        for key, value in counts.items():
            below = value // num_envs * num_envs
            if below != value:
                allowed = " or ".join(str(count) for count in (below, below + num_envs) if count)
                raise ValueError(
                    f"{key}={value}: {self.algo.name} takes it in steps of algo.num_envs={num_envs} environments; "
                    f"allowed next to it: {allowed}"
                )

    def _check_published(self) -> None:
        if self.compress.method not in PAPER_METHODS:
            allowed = ", ".join(PAPER_METHODS)
            raise ValueError(f"compress.method={self.compress.method}: not in the paper; allowed: {allowed}")
        if isinstance(self.compress, PruneSettings):
            if self.compress.finetune != "none":
                raise ValueError(f"compress.finetune={self.compress.finetune}: the paper has none; allowed: none")
            if self.compress.sparsity.steps:
                raise ValueError(f"compress.sparsity.steps={self.compress.sparsity.steps}: allowed with the paper: 0")

    @property
    def label(self) -> str:
        """Of the run directory, as long as all other settings are the defaults."""
        return self.compress.label + ("-paper" if self.protocol == "paper" else "")

    @property
    def trains(self) -> bool:
        """Whether the job trains a policy from the start, rather than building on one that is trained already."""
        return self.protocol == "ours" and self.compress.method not in DERIVED_METHODS

    @property
    def is_fp32(self) -> bool:
        """Whether this is the baseline that other runs build on or are compared with."""
        return self.protocol == "ours" and self.compress.method == "fp32"

    @property
    def training_steps(self) -> int:
        """Environment steps of training in this job, from the start or further."""
        if isinstance(self.compress, PruneSettings) and self.compress.finetune == "rl":
            return self.compress.rl_steps
        return self.total_steps if self.trains or self.compress.method == "qat" else 0

    def with_fp32(self) -> "Settings":
        """The job that trains what this one builds on; what it overwrites is not passed on."""
        return self.model_copy(update={"compress": FP32Settings(), "protocol": "ours", "overwrite": False})


class CompressRequest(Strict):
    """What compressing a policy that was not trained here needs."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    compress: CompressSettings
    env: EnvSettings
    eval: EvalSettings
    seed: Seed

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return data | {"compress": data.get("compress") or {"method": "fp32"}}

    @model_validator(mode="after")
    def _check(self) -> "CompressRequest":
        if isinstance(self.compress, QATSettings):
            raise ValueError("compress=qat: trains a policy from the start; allowed: prune_qat, ptdq, ptsq, ...")
        if isinstance(self.compress, PruneSettings) and self.compress.finetune == "rl":
            raise ValueError("compress.finetune=rl: needs the critics of a run; allowed here: none, distill")
        return self


class EnergySettings(Strict):
    window_s: Rate
    longest_s: Rate
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


class MeasureSettings(Selection):
    """What is measured of which runs; the values stand in conf/measure.yaml."""

    episodes: Count
    calls: Annotated[int, Field(ge=10_000, multiple_of=200)]
    copies: Annotated[int, Field(ge=2)]
    energy: EnergySettings


class EvaluateSettings(Strict):
    """Which policy is evaluated how; the values stand in conf/evaluate.yaml."""

    run: Annotated[str, Field(min_length=1)]
    episodes: Count
    seed: Seed
    video: bool


def parse_evaluation(data: dict[str, Any]) -> EvaluateSettings:
    """As `parse_settings`, for the settings of an evaluation."""
    return _parse(EvaluateSettings, data)


def parse_report(data: dict[str, Any]) -> ReportSettings:
    """As `parse_settings`, for the settings of a report."""
    return _parse(ReportSettings, data)


def parse_measure(data: dict[str, Any]) -> MeasureSettings:
    """As `parse_settings`, for the settings of a measurement."""
    return _parse(MeasureSettings, data)


def parse_settings(data: dict[str, Any]) -> Settings:
    """Check a resolved configuration. Raises UserError with one line: key, value, what is allowed."""
    return _parse(Settings, data)


def parse_request(data: dict[str, Any]) -> CompressRequest:
    """As `parse_settings`, for the settings of a compression alone."""
    return _parse(CompressRequest, data)


def _parse(model: type[Model], data: dict[str, Any]) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(_lines(error, data))) from None


def _lines(error: ValidationError, data: dict[str, Any]) -> Iterable[str]:
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        if item["type"] == "value_error":
            problems.setdefault(str(item["ctx"]["error"]), [])
            continue
        # Of the location only what is a key of the configuration: pydantic adds names of union branches.
        node: Any = data
        keys: list[str] = []
        for part in item["loc"]:
            if isinstance(node, dict) and part in node:
                node = node[str(part)]
                keys.append(str(part))
        path = ".".join(keys)
        if item["type"] == "missing":
            missing = ".".join([*keys, str(item["loc"][-1])])
            problems.setdefault(f"{missing}: is missing", [])
        elif item["type"] == "extra_forbidden":
            problems.setdefault(f"{path}={node}: there is no such key", [])
        else:
            problems.setdefault(f"{path}={_given(node)}", []).append(_message(item["msg"]))
    for subject, messages in problems.items():
        yield f"{subject}: {' or '.join(messages)}" if messages else subject


def _given(value: Any) -> str:
    return "null" if value is None else str(value)


def _message(text: str) -> str:
    if text.startswith("String should match pattern '^(cpu"):
        return "must be cpu, cuda or cuda:<number>"
    return re.sub(r"^(Input|String|List) should", "must", text).removesuffix(" after validation, not 0")
