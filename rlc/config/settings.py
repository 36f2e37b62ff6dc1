"""The settings of a job: types and allowed values. Defaults and meanings stand in conf/, once."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from rlc.config.compress import (
    DERIVED_METHODS,
    PAPER_METHODS,
    CompressSettings,
    FP32Settings,
    PruneSettings,
    QATSettings,
)
from rlc.config.types import BoolOrAuto, Name, Seed, parse_model
from trainers.envs.make import spec_of
from trainers.envs.spec import EnvSpec
from trainers.ppo import PPOSettings
from trainers.registry import AGENTS
from trainers.settings import AlgoSettings, Count, CountOrZero, OffPolicySettings, Strict


class EnvSettings(Strict):
    """The environment; the values stand in conf/env/."""

    name: str
    version: str
    id: Annotated[str, Field(min_length=1)]
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("kwargs")
    @classmethod
    def _check_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "render_mode" in kwargs:
            raise ValueError(
                f"env.kwargs.render_mode={kwargs['render_mode']}: chosen by rlc; leave it out (rlc.evaluate video=true "
                "makes a film)"
            )
        return kwargs

    def spec(self) -> EnvSpec:
        """Its shapes and bounds. Raises UserError where rlc cannot train in it."""
        return spec_of(self.id, self.kwargs)


class EvalSettings(Strict):
    """How policies are evaluated; the values stand in conf/train.yaml."""

    episodes: Count
    evaluations: CountOrZero
    seed: Seed


class WandbSettings(Strict):
    """What Weights & Biases is told; the values stand in conf/train.yaml."""

    mode: Literal["offline", "online", "disabled"]
    project: Annotated[str, Field(min_length=1)]
    entity: str | None


class Settings(Strict):
    """All settings of one job, as resolved from conf/ and the command line."""

    algo: SerializeAsAny[AlgoSettings]
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

    @field_validator("algo", mode="plain")
    @classmethod
    def _parse_algo(cls, data: Any) -> AlgoSettings:
        """The settings of an algorithm as its own class checks them."""
        name = data.get("name") if isinstance(data, dict) else data
        if not isinstance(name, str) or name not in AGENTS:
            raise ValueError(f"algo.name={name}: unknown; allowed: {', '.join(AGENTS)}")
        return AGENTS[name].SETTINGS.model_validate(data)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        seed = data.get("seed")
        return data | {
            "compress": data.get("compress") or {"method": "fp32"},
            "seed": seed if isinstance(seed, list) else [seed],
        }

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":  # noqa: C901 (a list of checks)
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


def parse_settings(data: dict[str, Any]) -> Settings:
    """Check a resolved configuration. Raises UserError with one line: key, value, what is allowed."""
    return parse_model(Settings, data)


def parse_request(data: dict[str, Any]) -> CompressRequest:
    """As `parse_settings`, for the settings of a compression alone."""
    return parse_model(CompressRequest, data)
