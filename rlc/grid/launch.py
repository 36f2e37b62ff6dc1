"""A multirun: what is left of a plan, through one of Hydra's launchers.

First the jobs that train, missing fp32 runs among them, then the jobs that build on those: no worker waits for the
training of another. A worker receives its job as a file, resolved and checked, and composes nothing again. Every job
that trains runs in a fresh child process of the launcher's worker.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from rlc.config.hydra_compat import Callbacks
from rlc.config.job import Job
from rlc.config.plan import Plan
from rlc.datafiles import CONF
from rlc.messages import warn
from rlc.pipeline.job import run_job
from rlc.pipeline.signals import HeldSignals, signals_are_held
from rlc.runs.files import OUTPUTS
from rlc.runs.identity import training_identity
from rlc.runs.run import Run, runs_of
from rlc.runs.stored import algorithm_directory
from trainers.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Appears beside the files of the jobs when one has failed under fail_fast.
STOP_FILE = "stop"
# Appears there when the command is interrupted: what runs ends, and nothing more begins.
INTERRUPT_FILE = "interrupt"
# Appears in the directory of a run that a search stops: its job ends, wherever it runs.
PRUNE_FILE = "prune"
LOCAL_LAUNCHERS = ("joblib", "basic")
PR_SET_PDEATHSIG = 1


def launch(plan: Plan) -> None:
    """Run what is not finished. Failures stand in the runs' status files; raises what the launcher raises."""
    parent = OUTPUTS / ".multirun"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="jobs-", dir=parent))
    folder.chmod(0o755)  # a scheduler's workers may be another user's
    with _told_of_signals(folder, plan) as signals:
        for number, stage in enumerate(stages(plan)):
            if signals.noted is None:
                _launch(stage, folder, number, plan.hydra)
    # Not where it is interrupted: jobs that wait in a scheduler's queue still need their files.
    shutil.rmtree(folder)
    signals.release()


@contextmanager
def _told_of_signals(folder: Path, plan: Plan) -> Iterator[HeldSignals]:
    """Have jobs on this machine write checkpoints and end when this process is interrupted or terminated.

    Jobs in a scheduler's queue go on, as they do when this process is lost.
    """
    launchers = [line.partition("=")[2] for line in plan.hydra if line.startswith("hydra/launcher=")]
    if any(launcher not in LOCAL_LAUNCHERS for launcher in launchers):
        yield HeldSignals()  # that nobody sets: they are raised
        return
    with HeldSignals(lambda: (folder / INTERRUPT_FILE).touch()) as signals:
        yield signals


def stages(plan: Plan) -> list[list[Job]]:
    """The jobs that are left: those that train from the start, and those that build on them.

    A baseline that several jobs lack is trained once.
    """
    training: list[Job] = []
    derived: list[Job] = []
    planned: set[tuple[str, int]] = set()
    for job in plan.jobs:
        if job.settings.is_fp32:
            planned |= {(training_identity(job.asked), seed) for seed in job.settings.seed}
    for job in plan.jobs:
        if not job.settings.overwrite and all(run.finished() for run in runs_of(job)):
            continue
        if job.settings.trains:
            training.append(job)
            continue
        derived.append(job)
        identity = training_identity(job.asked)
        unplanned = [run for run in runs_of(job) if (identity, run.seed) not in planned]
        missing = [run.seed for run in unplanned if run.baseline is None]
        if missing:
            planned |= {(identity, seed) for seed in missing}
            training.append(job.with_fp32().with_seeds(missing))
    return [stage for stage in (training, derived) if stage]


def _launch(jobs: Sequence[Job], folder: Path, stage: int, hydra_overrides: list[str]) -> None:
    files = [folder / f"{stage}-{number}.json" for number in range(len(jobs))]
    for file, job in zip(files, jobs, strict=True):
        file.write_text(job.to_json())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", hydra_overrides, RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    ends = launcher.launch([[f"+job_file={_encoded(file)}"] for file in files], 0)
    for job, end in zip(jobs, ends, strict=True):
        if end.status != JobStatus.COMPLETED:
            warn(f"{runs_of(job)[0].name}: the launcher's job ended with {end._return_value!r}")  # noqa: SLF001 (Hydra has no other name)


def task(config: DictConfig) -> None:
    """One job of a multirun, in whatever process its launcher gives it. Never raises: the runs' files tell."""
    file = _decoded(config.job_file)
    os.chdir(file.parents[len(OUTPUTS.parts) + 2])  # Hydra's `runtime.cwd` takes `${` for an interpolation
    job = Job.from_json(file.read_text())
    stop = file.with_name(STOP_FILE)
    if file.with_name(INTERRUPT_FILE).is_file() or (job.settings.fail_fast and stop.is_file()):
        return
    # The planner itself runs them where one runs at a time, and needs the signal.
    if not signals_are_held() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the job hears it, and the planner ends this worker
    try:
        if job.settings.training_steps or any(run.baseline is None for run in runs_of(job)):
            _in_child(job, file)
        else:
            run_job(job)
        if job.settings.fail_fast and not all(run.finished() for run in runs_of(job)):
            stop.touch()
    except UserError as error:  # a record that cannot be read
        warn(f"{algorithm_directory(job.settings)}: {error}")


def _encoded(file: Path) -> str:
    """An absolute path as a word that Hydra's grammar, YAML and interpolation leave as it is."""
    return f"x{os.fsencode(file).hex()}"


def _decoded(word: str) -> Path:
    """What `_encoded` was given."""
    return Path(os.fsdecode(bytes.fromhex(word.removeprefix("x"))))


def _in_child(job: Job, file: Path) -> None:
    """Run a job in a process of its own; a death that it could not note itself is noted for it.

    What it prints is left out: the planner shows how far it is.
    """
    runs = runs_of(job)
    remove_prune_files(runs)
    ends = [file.with_name(INTERRUPT_FILE), *(run.path / PRUNE_FILE for run in runs)]
    threads = dict.fromkeys(THREAD_VARIABLES, str(job.settings.threads))
    command = [sys.executable, "-m", "rlc.grid.launch", str(file)]
    child = subprocess.Popen(command, env=os.environ | threads, stdout=subprocess.DEVNULL)
    try:
        code = _wait(child, ends)
    except BaseException:  # a scheduler takes the worker's place away: what it holds is let go of
        child.terminate()
        child.wait()
        raise
    if code < 0 and not any(mark.is_file() for mark in ends):
        reason = f"its process was killed by {signal.Signals(-code).name}"
        for run in runs:
            run.mark_killed(child.pid, reason)
        warn(f"{algorithm_directory(job.settings)}: {reason}")


def remove_prune_files(runs: Sequence[Run]) -> None:
    """Take back what stops runs. Where a file lies in the place of a directory there is none: the job says so."""
    for run in runs:
        with suppress(NotADirectoryError):
            (run.path / PRUNE_FILE).unlink(missing_ok=True)


def _wait(child: subprocess.Popen[bytes], ends: Sequence[Path]) -> int:
    """The exit code of a child, which is told to end once one of the files appears."""
    while not any(mark.is_file() for mark in ends):
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=0.5)
    child.terminate()
    return child.wait()


def main() -> None:
    """The child process of a job, whose file is the argument."""
    if sys.platform == "linux":
        # When the worker dies, so does its job: the same command again goes on with it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_job(Job.from_json(Path(sys.argv[1]).read_text()))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
