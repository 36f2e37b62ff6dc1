"""Weights & Biases: one run per (algorithm, environment, compression, seed). A view of the files, never needed."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rlc.config.settings import WandbSettings
from rlc.messages import warn
from rlc.runs.stored import StoredRun
from trainers.errors import one_line

# What W&B takes, in characters.
LONGEST_TAG = 64
LONGEST_NAME = 128
NO_LOGIN = (
    "it has no login here that it takes; put the key of your account into WANDB_API_KEY, or say wandb.mode=offline and "
    "upload later with `wandb sync`"
)


class Tracker:
    """The W&B run of a run directory. Where W&B fails, one line says so and the training goes on."""

    def __init__(self, run: StoredRun, mode: Literal["offline", "online", "disabled"] | None = None) -> None:
        """`mode`: what is said now in place of what was said of the run."""
        settings = run.settings
        if mode is not None:
            settings = settings.model_copy(update={"wandb": settings.wandb.model_copy(update={"mode": mode})})
        self.run = run
        self.wandb_run: Any = None
        if settings.wandb.mode == "disabled":
            return
        group = f"{settings.study}/{settings.env.id}/{settings.algo.name}/{run.label}"
        words = (settings.algo.name, settings.env.id, settings.compress.method, f"seed{run.seed}")
        tags = [shortened(word, LONGEST_TAG) for word in words]
        name = f"{settings.algo.name}-{settings.env.id}-{run.label}-seed{run.seed}"
        with self._guard():
            # Without a directory it can write to, W&B falls back to a temporary one: check first.
            if not os.access(run.path, os.W_OK):
                raise OSError(f"{run.path} is not writable")
            self.wandb_run = _init(
                settings.wandb,
                run.path,
                f"{group} {run.identity} {run.seed}",
                name=shortened(name, LONGEST_NAME),
                group=shortened(group, LONGEST_NAME),
                job_type=settings.compress.method,
                tags=tags,
                config=settings.model_dump() | {"seed": run.seed, "label": run.label, "identity": run.identity},
            )
            self.wandb_run.define_metric("*", step_metric="global_step")

    def log(self, row: dict[str, float]) -> None:
        """Log the metrics of one step."""
        if self.wandb_run is not None:
            with self._guard():
                self.wandb_run.log(row)

    def summary(self, values: dict[str, Any]) -> None:
        """Log what is said of the whole run: numbers and text, other values are left out."""
        if self.wandb_run is not None:
            shown = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
            with self._guard():
                self.wandb_run.summary.update(shown)

    def artifact(self) -> None:
        """Log the run's artifact under the name of the run."""
        if self.wandb_run is not None:
            with self._guard():
                import wandb

                files = wandb.Artifact(re.sub(r"[^\w.-]", ".", str(self.wandb_run.name)), type="policy")
                for path in sorted(self.run.artifact.iterdir()):
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
    return f"{text[: longest - 7]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


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
            f"report {study}",
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


def _init(settings: WandbSettings, folder: Path, identity: str, **shown: Any) -> Any:
    """The W&B run of an identity, begun or gone on with; its files lie in the folder."""
    import wandb

    if not _writable(Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "/"))):
        # As in a container; W&B would write its log to the terminal.
        os.environ.setdefault("WANDB_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"wandb-cache-{os.getuid()}"))
    return wandb.init(
        mode=settings.mode,
        project=settings.project,
        entity=settings.entity,
        dir=os.environ.get("WANDB_DIR") or str(folder.resolve()),
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        reinit="create_new",
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),
        **shown,
    )
