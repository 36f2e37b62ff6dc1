"""A multirun: what is left of a plan, through one of Hydra's launchers.

First the jobs that train, missing fp32 runs among them, then the jobs that build on those: no worker waits for the
training of another. Every job that trains runs in a fresh child process of the launcher's worker.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from rlc.jobs import run_job
from rlc.messages import say
from rlc.plan import CONF, Job, Plan, base_line, job_of
from rlc.runs import OUTPUTS, Run, algorithm_directory, finished_fp32_run, training_identity

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Names a file that appears when a job has failed under fail_fast; every launcher sets it where the job runs.
STOP_VARIABLE = "RLC_STOP_FILE"
PR_SET_PDEATHSIG = 1


def launch(plan: Plan) -> None:
    """Run what is not finished. Failures stand in the runs' status files; raises what the launcher raises."""
    stop = OUTPUTS / ".multirun" / f"stop-{os.getpid()}"
    try:
        for stage in stages(plan):
            _launch(stage, [*plan.hydra, f"+hydra.job.env_set.{STOP_VARIABLE}='{stop.resolve()}'"])
    finally:
        stop.unlink(missing_ok=True)


def stages(plan: Plan) -> list[list[list[str]]]:
    """The overrides of the jobs that are left: those that train from the start, and those that build on them."""
    training: list[list[str]] = []
    derived: list[list[str]] = []
    planned = {
        (training_identity(job.asked), seed) for job in plan.jobs for seed in job.settings.seed if job.settings.is_fp32
    }
    for job, line in zip(plan.jobs, plan.lines, strict=True):
        if not job.settings.overwrite and all(Run(job, seed).finished() for seed in job.settings.seed):
            continue
        if job.settings.trains:
            training.append(line)
            continue
        derived.append(line)
        identity = training_identity(job.asked)
        missing = [
            seed
            for seed in job.settings.seed
            if (identity, seed) not in planned and finished_fp32_run(job, seed) is None
        ]
        base = base_line(line, missing)
        # A preset may say more than its overrides show: then the derived job trains what it needs by itself.
        if missing and training_identity(job_of(base).asked) == identity:
            planned |= {(identity, seed) for seed in missing}
            training.append(base)
    return [stage for stage in (training, derived) if stage]


def _launch(lines: Sequence[Sequence[str]], hydra_overrides: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", hydra_overrides, RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    for line, ended in zip(lines, launcher.launch([list(line) for line in lines], 0), strict=True):
        if ended.status != JobStatus.COMPLETED:
            say(f"{' '.join(line)}: the launcher's job ended with {ended._return_value!r}")


def task(config: DictConfig) -> None:
    """One job of a multirun, in whatever process its launcher gives it. Never raises: the runs' files tell."""
    os.chdir(HydraConfig.get().runtime.cwd)
    line = list(HydraConfig.get().overrides.task)
    alone = "BasicLauncher" in HydraConfig.get().launcher._target_
    job = job_of(line)
    stop = Path(os.environ[STOP_VARIABLE])
    if job.settings.fail_fast and stop.is_file():
        return
    if job.settings.training_steps or any(finished_fp32_run(job, seed) is None for seed in job.settings.seed):
        _in_child(job, line, show=alone)
    else:
        run_job(job)
    if job.settings.fail_fast and not all(Run(job, seed).finished() for seed in job.settings.seed):
        stop.touch()


def _in_child(job: Job, line: Sequence[str], show: bool) -> None:
    """Run a job in a process of its own; a death that it could not note itself is noted for it."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(job.settings.threads))
    command = [sys.executable, "-m", "rlc.launch", *line]
    child = subprocess.Popen(command, env=os.environ | threads, stdout=None if show else subprocess.DEVNULL)
    try:
        code = child.wait()
    except BaseException:  # a scheduler takes the worker's place away: what it holds is let go of
        child.terminate()
        child.wait()
        raise
    if code < 0:
        reason = f"its process was killed by {signal.Signals(-code).name}"
        for seed in job.settings.seed:
            Run(job, seed).note_death(child.pid, reason)
        say(f"{algorithm_directory(job.settings)}: {reason}")


def main() -> None:
    """The child process of a job."""
    if sys.platform == "linux":
        # When the worker dies, so does its job: the same command again goes on with it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run_job(job_of(sys.argv[1:]))


if __name__ == "__main__":
    main()
