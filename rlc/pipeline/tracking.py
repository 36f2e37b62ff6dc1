"""Weights & Biases: one run per (algorithm, environment, compression, seed). A view of the files, never needed."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from compression.files import sha256
from rlc.config.settings import WandbSettings
from rlc.messages import warn
from rlc.runs.records import Measurement, RunResult, normalized_returns
from rlc.runs.stored import METRICS_FILE, StoredRun, read_metrics
from trainers.errors import one_line

# What W&B takes, in characters.
LONGEST_TAG = 64
LONGEST_NAME = 128
# Numbers by which runs are compared, of the run as a whole: of every method, fp32 included.
RETURN_KEPT = "compare/return_kept"
BYTES = "compare/bytes"
SIZE_RATIO = "compare/size_ratio"
MICROSECONDS = "compare/microseconds"
MICROSECONDS_C = "compare/microseconds_as_c"
# What a report's tables say instead of an environment.
ALL_ENVIRONMENTS = "all"
NO_LOGIN = (
    "it has no login here that it takes; put the key of your account into WANDB_API_KEY, or say wandb.mode=offline and "
    "upload later with `wandb sync`"
)


class Tracker:
    """The W&B run of a run directory. Where W&B fails, one line says so and the training goes on.

    Logged steps are environment steps: what a training that goes on from a checkpoint does again is logged once. An
    offline run is one file that has all of the run: when it is opened again, it is written anew from metrics.csv and
    result.json, and replaces the one before, since two of one name would overwrite each other where they are uploaded.
    """

    def __init__(self, run: StoredRun, mode: Literal["offline", "online", "disabled"] | None = None) -> None:
        """`mode`: what is said now in place of what was said of the run."""
        settings = run.settings
        if mode is not None:
            settings = settings.model_copy(update={"wandb": settings.wandb.model_copy(update={"mode": mode})})
        self.run = run
        self.wandb_run: Any = None
        self._step = 0
        if settings.wandb.mode == "disabled":
            return
        policy = f"{settings.algo.name} {run.words}"
        group = f"{settings.study}/{settings.env.id}/{settings.algo.name}/{run.words}"
        words = (settings.algo.name, settings.env.id, settings.compress.method, f"seed{run.seed}")
        tags = [shortened(word, LONGEST_TAG) for word in words]
        told = {"seed": run.seed, "label": run.label, "identity": run.identity}
        told |= {"policy": policy, "environment": settings.env.id, "algorithm": settings.algo.name}
        with self._guard():
            # Without a directory it can write to, W&B falls back to a temporary one: check first.
            if not os.access(run.path, os.W_OK):
                raise OSError(f"{run.path} is not writable")
            run_id = _id(run)
            before = list(_home(run.path).glob(f"wandb/offline-run-*-{run_id}"))
            self.wandb_run = _init(
                settings.wandb,
                run.path,
                run_id,
                name=shortened(f"{policy} {settings.env.id} seed {run.seed}", LONGEST_NAME),
                group=shortened(group, LONGEST_NAME),
                job_type=settings.compress.method,
                tags=tags,
                config=settings.model_dump() | told,
            )
            self.wandb_run.define_metric("*", step_metric="global_step")
            if settings.wandb.mode == "offline":
                self._tell_again(before)

    def _tell_again(self, before: Sequence[Path]) -> None:
        """Log what files say of the run so far, in place of the folders that said it."""
        for row in read_metrics(self.run.path / METRICS_FILE):
            self.log(row)
        result = self.run.result()
        if result is not None:
            self.finished(result)
            measurement = self.run.measurement()
            if measurement is not None:
                self.measured(measurement)
        for folder in before:
            shutil.rmtree(folder, ignore_errors=True)

    def log(self, row: dict[str, float]) -> None:
        """Log the metrics of one environment step, `global_step`."""
        if self.wandb_run is not None:
            self._step = max(self._step, int(row["global_step"]))
            with self._guard():
                self.wandb_run.log(row, step=self._step)

    def finished(self, result: RunResult) -> None:
        """Log what a finished run says of itself: the last point of its curve, its numbers, its artifact."""
        self.log({"global_step": self.run.settings.total_steps, "eval/final_return_mean": result.return_mean})
        self.summary(result.fields() | compared(self.run, result))
        self.artifact()

    def measured(self, measurement: Measurement) -> None:
        """Log what was measured of a run."""
        times = {MICROSECONDS: measurement.infer.onnx_run_p50_us, MICROSECONDS_C: measurement.infer.native_p50_us}
        self.summary(flat_values(measurement) | times)

    def summary(self, values: dict[str, Any]) -> None:
        """Log what is said of the whole run: numbers and text, other values are left out."""
        if self.wandb_run is not None:
            shown = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
            with self._guard():
                self.wandb_run.summary.update(shown)

    def artifact(self) -> None:
        """Log the run's artifact under the name of its directory; a run from a pack may have none."""
        if self.wandb_run is not None and self.run.artifact.is_dir():
            with self._guard():
                import wandb

                run = self.run
                name = f"{run.settings.algo.name}-{run.settings.env.id}-{run.label}-seed{run.seed}"
                files = wandb.Artifact(re.sub(r"[^\w.-]", ".", shortened(name, LONGEST_NAME)), type="policy")
                for path in sorted(run.artifact.iterdir()):
                    files.add_file(str(path), policy="immutable")  # as it lies there, without a copy in the home
                self.wandb_run.log_artifact(files)

    def finish(self, failed: bool = False) -> None:
        """End the W&B run."""
        if self.wandb_run is not None:
            with self._guard():
                self.wandb_run.finish(exit_code=int(failed))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.wandb_run = None
            text = one_line(f"W&B failed, the run goes on without it: {_reason(error)}")
            warn(text)
            self.run.log(text)


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and a hash of it where it is longer than W&B takes."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 7]}~{sha256(text.encode())[:6]}"


def compared(run: StoredRun, result: RunResult) -> dict[str, float | None]:
    """Return kept and size beside the fp32 run of the same seed; None where there is none.

    Return kept is (R - R_random) / (R_fp32 - R_random), None where the fp32 policy is no better than random actions.
    """
    baseline = None if run.settings.is_fp32 else run.baseline
    fp32_bytes = result.onnx_file_bytes if run.settings.is_fp32 else None
    if baseline is not None:
        fp32_bytes = baseline.finished_result().onnx_file_bytes
    kept = next(iter(normalized_returns([result])), None)
    ratio = None if fp32_bytes is None else fp32_bytes / result.onnx_file_bytes
    return {RETURN_KEPT: kept, BYTES: float(result.onnx_file_bytes), SIZE_RATIO: ratio}


def flat_values(measurement: Measurement) -> dict[str, Any]:
    """Names and values for W&B: infer/..., mem/..., energy/..."""
    values = {}
    for section in ("infer", "mem", "energy"):
        for name, value in getattr(measurement, section).fields().items():
            values[f"{section}/{name}"] = value
    return values


def _id(run: StoredRun) -> str:
    """The id of a run: that of its folders, if it has any; one that was done again is another run."""
    for folder in sorted(run.path.glob("wandb/*run-*-*"), reverse=True):
        return folder.name.rpartition("-")[2]
    again = len(list(run.path.parent.glob(f"{run.path.name}.old-*")))
    settings = run.settings
    where = f"{settings.study}/{settings.env.id}/{settings.algo.name}/{run.label}"
    return _hashed(f"{where} {run.identity} {run.seed}" + (f" {again}" if again else ""))


def _home(folder: Path) -> Path:
    """Where W&B has its files of a folder."""
    return Path(os.environ.get("WANDB_DIR") or folder.resolve())


def _hashed(text: str) -> str:
    return sha256(text.encode())[:16]


def log_tables(
    folder: Path, study: str, settings: WandbSettings, tables: dict[str, tuple[list[str], list[list[str]]]]
) -> None:
    """One W&B run with a study's tables, (headers, rows) by name. Where W&B fails, one line says so."""
    if settings.mode == "disabled":
        return
    try:
        import wandb

        run = _init(
            settings,
            folder,
            _hashed(f"report {study}"),
            config={"study": study, "environment": ALL_ENVIRONMENTS},
            name=shortened(f"report-{study}", LONGEST_NAME),
            group=study,
            job_type="report",
        )
        run.log({name: wandb.Table(columns=[*headers], data=rows) for name, (headers, rows) in tables.items()})
        run.finish()
    except Exception as error:
        warn(f"W&B failed, the report stands without it: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Why W&B failed; of a login that is missing or wrong in our own words."""
    return NO_LOGIN if "API key" in str(error) or "API_KEY" in str(error) else str(error)


def _writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _init(settings: WandbSettings, folder: Path, run_id: str, **shown: Any) -> Any:
    """The W&B run of an id, begun or gone on with; its files lie in the folder."""
    import wandb

    if not _writable(Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "/"))):
        # As in a container; W&B would write its log to the terminal.
        os.environ.setdefault("WANDB_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"wandb-cache-{os.getuid()}"))
    return wandb.init(
        mode=settings.mode,
        project=settings.project,
        entity=settings.entity,
        dir=str(_home(folder)),
        id=run_id,
        reinit="create_new",
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),
        **shown,
    )
