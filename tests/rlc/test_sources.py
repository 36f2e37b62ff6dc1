"""Configuration files of the user's own, beside those of conf/."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlc.compress import compress
from rlc.config.compose import default_settings
from rlc.config.job import Job
from rlc.config.plan import make_plan
from rlc.grid.launch import launch
from rlc.runs.find import list_runs
from rlc.runs.run import runs_of
from tests.helpers import POLICIES
from trainers.errors import UserError

FILES = {
    "algo/quick_sac": "defaults:\n  - sac\n  - _self_\nhidden: [16, 16]\nlearning_starts: 100\nbatch_size: 16\n",
    "env/pendulum": "name: Pendulum\nversion: v1\nid: ${.name}-${.version}\n",
    "compress/half": "defaults:\n  - prune_l2\n  - _self_\nratio: 0.5\nfinetune: none\n",
    "experiment/mine": "# @package _global_\nstudy: mine\ntotal_steps: 400\ncheckpoint_every: null\n"
    "eval: {episodes: 1, evaluations: 1}\nwandb: {mode: disabled}\nhydra:\n  mode: MULTIRUN\n  sweeper:\n"
    "    params: {+algo: 'quick_sac', +compress: 'fp32,half', env: pendulum, seed: 0}\n",
    "hydra/launcher/one_by_one": "defaults:\n  - basic\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my conf"
    for name, text in FILES.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("words", [["--config-dir", "my conf"], ["-cd=my conf"], ["hydra.searchpath=['my conf']"]])
def test_own_files_are_chosen_like_those_of_conf(own: Path, words: list[str]) -> None:
    plan = make_plan([*words, "+algo=quick_sac", "+compress=half,ptdq", "env=pendulum", "seed=0,1", "-m"])
    assert [job.settings.env.id for job in plan.jobs] == ["Pendulum-v1"] * 6
    assert plan.jobs[0].settings.algo.hidden == [16, 16]
    assert f'hydra.searchpath=["file://{own}"]' in plan.hydra
    assert make_plan([*words, "+algo=glob(*sac)", "env=glob(*pen*)", "seed=0", "-m"]).jobs[1].settings.env.id
    # And no longer, once the command line is read.
    with pytest.raises(UserError, match=r"quick_sac: unknown"):
        make_plan(["+algo=quick_sac"])


def test_a_file_of_ones_own_has_a_directory_of_its_own_and_reads_back(own: Path) -> None:
    words = ["--config-dir", str(own), "env=pendulum"]
    (shipped,) = runs_of(make_plan([*words, "+algo=sac"]).jobs[0])
    (changed,) = runs_of(make_plan([*words, "+algo=quick_sac"]).jobs[0])
    assert shipped.path.parent.name == "fp32"
    assert changed.path.parent.name.startswith("fp32~")
    assert changed.differences["algo.batch_size"] == 16
    by_hand = "+algo=sac env.id=Pendulum-v1 algo.hidden=[16,16] algo.learning_starts=100 algo.batch_size=16"
    (same,) = runs_of(make_plan(by_hand.split()).jobs[0])
    assert same.path == changed.path
    assert Job.from_json(changed.job.to_json()) == changed.job


def test_a_preset_and_a_launcher_of_ones_own_run(own: Path) -> None:
    plan = make_plan(["-cd", str(own), "+experiment=mine", "hydra/launcher=one_by_one"])
    launch(plan)
    assert [run.settings.compress.method for run in list_runs("mine") if run.finished()] == ["fp32", "prune_l2"]
    default_settings()


def test_help_and_the_compress_command_read_them(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "rlc.train", "--config-dir", str(own), "+algo=quick_sac", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "With +algo=quick_sac: Others: as of +algo=sac." in text
    policy = POLICIES / "sac-hopper"
    compress(["--config-dir", str(own), str(policy), "+compress=half", "eval.episodes=1", f"to={own / 'smaller'}"])
    assert "prune_l2-0.50" in capsys.readouterr().out


def bad(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("words", "change", "line"),
    [
        ("--config-dir", None, r"no directory behind it; write --config-dir <directory>"),
        ("--config-dir=nowhere", None, r"nowhere is no directory"),
        ("hydra.searchpath=[pkg://no_such_package]", None, r"no_such_package is no package"),
        ("hydra.searchpath=own", None, r"allowed: a list of directories"),
        ("hydra.searchpath=[.]", None, r"has no file that could be chosen"),
        ("-cd own +algo=quick_sak", None, r"did you mean quick_sac\?"),
        ("-cd own", bad("algo/sac.yaml", "gamma: 0\n"), r"own/algo/sac.yaml: would not be read, .*conf/algo/sac.yaml"),
        ("-cd own +algo=quick_sac", bad("algo/quick_sac.yaml", "a: [\n"), r"quick_sac.yaml"),
        (
            "-cd own +algo=quick_sac",
            bad("algo/quick_sac.yaml", "name: a2c\n"),
            r"algo.name=a2c: unknown; allowed",
        ),
        ("total_steps=glob(*)", None, r"glob\(\.\.\.\) chooses among files, so it is for env, algo"),
        ("env=glob(x*)", None, r"matches none; allowed: names among ant"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    own: Path, words: str, change: Callable[[Path], None] | None, line: str
) -> None:
    own.rename("own")
    if change is not None:
        change(Path("own"))
    with pytest.raises(UserError, match=line) as caught:
        make_plan(words.split())
    assert "\n" not in str(caught.value)
