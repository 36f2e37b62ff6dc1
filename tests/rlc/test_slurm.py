"""A grid on a real Slurm of one node, set up for the test: arrays, a time limit, a cancelled job."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rlc.config.plan import LAUNCHERS

pytestmark = pytest.mark.slow
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db", "sbatch")
# Its environment takes ten milliseconds for a step, so that no machine is through before the limit.
SLOW_ENV = """
import time
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv


class Slow(PendulumEnv):
    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


gym.register("Slow-v0", Slow, max_episode_steps=50)
"""
GRID = (
    "+algo=sac env.id=slow_env:Slow-v0 total_steps=14000 algo.learning_starts=13000 algo.hidden=[16] "
    "algo.batch_size=16 checkpoint_every=500 eval.episodes=1 eval.evaluations=1 wandb.mode=disabled seed=0,1 "
    "-m hydra/launcher=slurm hydra.launcher.partition=cpu hydra.launcher.timeout_min=3 "
    "hydra.launcher.signal_delay_s=60 hydra.launcher.mem_gb=1"
)
SLURM_CONF = """
ClusterName=rlc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
StateSaveLocation={home}
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SLURMDBD_CONF = """
AuthType=auth/munge
DbdHost=localhost
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
LogFile={home}/slurmdbd.log
PidFile={home}/slurmdbd.pid
"""


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def wait_for(what: str, true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Controller, node, accounting and its database on this machine, in a temporary folder."""
    pytest.importorskip(LAUNCHERS["slurm"][1], reason="install the extra slurm")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurm-wlm slurmdbd munge mariadb-server)")
    if os.geteuid() != 0:
        pytest.skip("a Slurm is set up by root")
    home = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    (home / "slurm.conf").write_text(SLURM_CONF.format(home=home, host=host))
    (home / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(home=home))
    (home / "slurmdbd.conf").chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(home / "slurm.conf"))
        patch.setenv("MYSQL_UNIX_PORT", str(home / "db.sock"))
        pids = home / "munged.pid"
        if "Success" not in call("sh", "-c", "munge -n | unmunge"):
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            call("su", "-s", "/bin/sh", "munge", "-c", "munged")
            shutil.copy("/run/munge/munged.pid", pids)
        data = f"--datadir={home / 'db'}"
        call("mariadb-install-db", data, "--auth-root-authentication-method=normal", "--user=root", "--skip-test-db")
        options = ["--no-defaults", data, f"--socket={home / 'db.sock'}", "--skip-networking", "--user=root"]
        with subprocess.Popen(["mariadbd", *options], stderr=subprocess.DEVNULL) as database:
            try:
                wait_for("the database", (home / "db.sock").exists)
                call("slurmdbd")
                wait_for("slurmdbd", lambda: "error" not in call("sacctmgr", "-i", "add", "cluster", "rlc"))
                call("slurmctld", "-c")
                call("slurmd")
                wait_for("the node", lambda: " idle " in call("sinfo"))
                yield
            finally:
                for file in [home / f"{name}.pid" for name in ("slurmd", "slurmctld", "slurmdbd")] + [pids]:
                    with suppress(OSError, ValueError, psutil.Error):
                        process = psutil.Process(int(file.read_text()))
                        process.terminate()
                        process.wait(30)
                database.terminate()


def states(cwd: Path) -> dict[str, str]:
    found = {}
    for file in cwd.glob("outputs/default/*/*/*/seed*/status.json"):
        found[file.parent.name] = file.read_text().partition('"state": "')[2].partition('"')[0]
    return found


def ended(process: subprocess.Popen[str]) -> str:
    """What a command wrote until its end."""
    try:
        return process.communicate(timeout=1500)[0]
    finally:
        process.kill()


@pytest.mark.usefixtures("slurm")
def test_a_time_limit_requeues_a_cancelled_job_is_told_and_the_same_command_ends_it(tmp_path: Path) -> None:
    (tmp_path / "slow_env.py").write_text(SLOW_ENV)
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"}
    command = [sys.executable, "-m", "rlc.train", *GRID.split()]

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with begin() as first:
        wait_for("both jobs", lambda: states(tmp_path) == {"seed0": "running", "seed1": "running"}, 120)
        job = call("squeue", "--noheader", "--format=%F").split()[0]
        call("scancel", f"{job}_1")
        text = ended(first)
    # The first job met its limit and was put back; the second was cancelled.
    log = next(tmp_path.glob("outputs/default/*/*/*/seed0/run.log")).read_text()
    assert "goes on from the checkpoint of step" in log, text
    assert states(tmp_path) == {"seed0": "done", "seed1": "interrupted"}, text
    assert first.returncode == 1, text
    assert "CANCELLED" in call("sacct", "-X", "-n", "-j", f"{job}_1", "--format=state")
    with begin() as again:
        text = ended(again)
    assert again.returncode == 0, text
    assert "1 of them finished already" in text
    assert states(tmp_path) == {"seed0": "done", "seed1": "done"}
