"""What a run's files say of it: the fields of `result.json`, `status.json` and `measurement.json`.

A measured value that is None has its reason beside it. `rlc.runs.files` reads and writes these records.
"""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1
# What status.json says of the artifact of a run that came from a pack as a record alone.
NOT_PACKED: Literal["not packed"] = "not packed"
Numbers = dict[str, int | float]
# Fields of a result that two seeds never share, unless they are not independent.
FINGERPRINTS = ("first_observations_sha256", "initial_weights_sha256", "final_weights_sha256")
NATIVE_CAME_LATER = "measured before policies were timed as C: measure again"


class Record(BaseModel):
    """A part of a file. Keys that this version does not know are kept, so that writing a record again loses none."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    def fields(self) -> dict[str, Any]:
        """The fields that were given, in the order of the file."""
        return self.model_dump(exclude_unset=True)


class VersionedRecord(Record):
    """A whole file."""

    schema_version: int = SCHEMA_VERSION


class Provenance(Record):
    """What made a result: code, versions, machine."""

    git_commit: str | None
    """None outside of a checkout."""
    git_dirty: bool | None
    versions: dict[str, str]
    cpu: str
    gpus: list[str]
    cores: int | None


class RunIdentity(Record):
    """Which run it is."""

    env_id: str
    algo: str
    protocol: Literal["ours", "paper"] = "ours"
    compress: str
    label: str
    seed: int
    identity: str
    training_identity: str
    total_steps: int


class PolicyScores(Record):
    """Undiscounted returns over the episodes of the deployed policy."""

    return_mean: float
    return_std: float
    episode_returns: list[float]
    episode_lengths: list[int]


class BaselineScores(Record):
    """Returns of the fp32 policy of the same seed and training, by the same protocol."""

    fp32_return_mean: float | None
    fp32_return_std: float | None
    fp32_missing_reason: str | None


class ReferenceScores(Record):
    """Returns of uniform random actions and of the zero action."""

    random_return_mean: float
    random_return_std: float
    zero_return_mean: float
    zero_return_std: float


class RunScores(ReferenceScores, BaselineScores, PolicyScores):
    """All returns of a run. Bases stand in reverse, here and below: that gives the order of the file."""


class ExportRecord(Record):
    """The deployed file."""

    onnx_file_bytes: int
    weight_bytes: int
    parity: Numbers
    """Differences between the torch policy and ONNX Runtime, in half ranges of the action, and `states`."""


class TrainingRecord(Record):
    """How the weights came to be. Fingerprints that two seeds share show that they are not independent."""

    final_weights_sha256: str | None = None
    train_seconds: float | None = None
    """Evaluations along the training included."""
    train_seconds_reason: str | None = None
    train_cpu_seconds: float | None = None
    lockstep_seeds: int | None = None
    """How many seeds were trained together."""
    first_observations_sha256: str | None = None
    initial_weights_sha256: str | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those that are known, by name."""
        known = {name: getattr(self, name) for name in FINGERPRINTS}
        return {name: value for name, value in known.items() if value is not None}


class PruningRecord(TrainingRecord):
    """A training record that may be one of pruning, with sizes of the actor before and after."""

    widths_before: list[int] | None = None
    parameters_before: int | None = None
    macs_before: int | None = None
    widths_after: list[int] | None = None
    parameters_after: int | None = None
    macs_after: int | None = None
    finetune: str | None = None
    finetune_steps: int | None = None
    finetune_seconds: float | None = None
    return_before_finetune_mean: float | None = None
    return_before_finetune_std: float | None = None
    return_after_finetune_mean: float | None = None
    return_after_finetune_std: float | None = None


class RunResult(PruningRecord, ExportRecord, RunScores, RunIdentity, VersionedRecord):
    """result.json: everything a finished run says of itself but its cost."""

    device: str
    provenance: Provenance


def normalized_returns(results: Iterable[RunResult]) -> list[float]:
    """(R - R_random) / (R_fp32 - R_random) of each seed that learned: whose fp32 policy beats random actions.

    R_fp32 is of the same seed, by the same protocol.
    """
    shares = []
    for result in results:
        fp32 = result.fp32_return_mean
        random = result.random_return_mean
        if fp32 is not None and fp32 > random:
            shares.append((result.return_mean - random) / (fp32 - random))
    return shares


class RunStatus(VersionedRecord):
    """status.json: how far a run is."""

    state: Literal["running", "failed", "interrupted", "pruned", "done"]
    """pruned: a search stopped it early, and nothing goes on from it."""
    error: str | None
    identity: str
    host: str
    pid: int
    started: str
    """UTC, ISO 8601."""
    heartbeat: str
    step: int
    total_steps: int
    artifact: Literal["not packed"] | None = None
    """Set where the run came from a pack without its policy."""


class MeasuredReturns(Record):
    """Returns over the episodes of a measurement."""

    episodes: int
    return_mean: float
    return_std: float
    return_median: float
    early_end_share: float
    return_difference_to_fp32_mean: float | None = None
    """None where no fp32 policy played the same start states."""
    return_difference_to_fp32_low: float | None = None
    return_difference_to_fp32_high: float | None = None


class MeasuredTimes(Record):
    """Time of one call in microseconds, by way of calling; `floor_` is a model that does nothing."""

    onnx_run_calls: int | None = None
    onnx_run_p50_us: float | None = None
    onnx_run_p95_us: float | None = None
    onnx_run_p99_us: float | None = None
    onnx_io_binding_calls: int | None = None
    onnx_io_binding_p50_us: float | None = None
    onnx_io_binding_p95_us: float | None = None
    onnx_io_binding_p99_us: float | None = None
    torch_eager_calls: int | None = None
    torch_eager_p50_us: float | None = None
    torch_eager_p95_us: float | None = None
    torch_eager_p99_us: float | None = None
    floor_onnx_run_calls: int | None = None
    floor_onnx_run_p50_us: float | None = None
    floor_onnx_run_p95_us: float | None = None
    floor_onnx_run_p99_us: float | None = None
    floor_onnx_io_binding_calls: int | None = None
    floor_onnx_io_binding_p50_us: float | None = None
    floor_onnx_io_binding_p95_us: float | None = None
    floor_onnx_io_binding_p99_us: float | None = None
    torch_eager_reason: str | None = None
    native_calls: int | None = None
    """The policy as C, called from Python."""
    native_p50_us: float | None = None
    native_p95_us: float | None = None
    native_p99_us: float | None = None
    native_binding: Literal["extension", "ctypes"] | None = None
    native_reason: str | None = NATIVE_CAME_LATER
    """Why it was not timed. Records without the key are from before there was C."""


class MeasuredMemory(Record):
    """Bytes of files and of processes."""

    artifact_bytes: int | None = None
    onnx_file_bytes: int | None = None
    weight_bytes: int | None = None
    bytes_per_copy: float | None = None
    first_copy_bytes: int | None = None
    peak_process_bytes: int | None = None
    missing_reason: str | None = None
    native_code_bytes: int | None = None
    """The policy as C: instructions, compiled for size."""
    native_constant_bytes: int | None = None
    native_stack_bytes: int | None = None
    native_reason: str | None = NATIVE_CAME_LATER

    @property
    def native_bytes(self) -> int | None:
        """Instructions and constants together: what the policy takes of a microcontroller's flash."""
        if self.native_code_bytes is None or self.native_constant_bytes is None:
            return None
        return self.native_code_bytes + self.native_constant_bytes


class MeasuredEpisodes(Record):
    """What the paper measured: whole episodes, simulator included."""

    episode_s: float | None = None
    episode_steps: float | None = None
    process_rss_bytes: float | None = None
    missing_reason: str | None = None


class MeasuredEnergy(Record):
    """Energy of policy calls in a closed loop."""

    source: str | None = None
    calls: int | None = None
    window_s: float | None = None
    joules_per_1000_actions: float | None = None
    joules_per_episode: float | None = None
    idle_watts: float | None = None
    joules_per_1000_actions_above_idle: float | None = None
    parts_joules_per_1000_actions: dict[str, float] | None = None
    missing_reason: str | None = None


class Measurement(VersionedRecord):
    """measurement.json: what a policy costs, on which machine."""

    machine: dict[str, Any] | None = None
    load: Numbers | None = None
    provenance: Provenance | None = None
    short: list[str] | None = None
    """Settings with which less was measured than by default, as `key=value`: a try."""
    eval: MeasuredReturns | None = None
    infer: MeasuredTimes = MeasuredTimes()
    mem: MeasuredMemory = MeasuredMemory()
    paper: MeasuredEpisodes = MeasuredEpisodes()
    energy: MeasuredEnergy = MeasuredEnergy()

    def value(self, section: str, name: str) -> float | None:
        """A measured number; None where it was not measured."""
        number: float | None = getattr(getattr(self, section), name, None)
        return number
