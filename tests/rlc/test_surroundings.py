"""What lies around a command: odd paths, links, modules and variables of the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlc.cli import given_path
from rlc.config.compose import compose_settings
from rlc.config.plan import make_plan
from rlc.grid.launch import _decoded, _encoded
from rlc.pipeline.tracking import shortened
from rlc.runs.identity import folder_name, identity
from rlc.runs.run import Run
from tests.helpers import ROOT
from trainers.errors import UserError


def refused(cwd: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["measure.py", "trainers/__init__.py"])
def test_a_module_in_front_of_ours_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    assert f"{name}: stands in front of a package of rlc" in refused(tmp_path, "rlc.train", "+algo=ppo")


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").symlink_to("scratch")
    assert "outputs: is a link to scratch, which is not there" in refused(tmp_path, "rlc.train", "+algo=ppo")


@pytest.mark.parametrize("text", ['it\'s a "lab"', "${HOME} x", "back\\slash,{a}=[b]", "äö ~x", "1e5"])
def test_a_path_passes_through_hydra(text: str) -> None:
    word = _encoded(Path("/tmp") / text)
    assert word.isalnum()
    assert _decoded(word) == Path("/tmp") / text


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert given_path("~/x") == Path("/home/me/x")
    with pytest.raises(UserError, match=r"~nobody_at_all/x: .*; allowed: ~/ for your own"):
        given_path("~nobody_at_all/x")


def test_names_fit_into_wandb() -> None:
    assert shortened("short", 64) == "short"
    long = [shortened("x" * 200 + end, 64) for end in "ab"]
    assert [len(text) for text in long] == [64, 64]
    assert long[0] != long[1]


def test_folders_have_names_that_every_system_takes() -> None:
    assert folder_name("Hopper-v4") == "Hopper-v4"
    assert folder_name("mine:ns/Robot-v0") == "mine_ns_Robot-v0"
    assert folder_name("-x.") == "_x_"
    assert len(folder_name("x" * 300)) < 120
    assert folder_name("x" * 300) != folder_name("x" * 301)


def test_wandbs_variables_are_obeyed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    compose_settings.cache_clear()
    told = make_plan(["+algo=ppo"]).jobs[0].settings.wandb
    assert (told.mode, told.project) == ("offline", "mine")
    assert make_plan(["+algo=ppo", "wandb.project=x"]).jobs[0].settings.wandb.project == "x"
    monkeypatch.setenv("WANDB_NAME", "one")
    with pytest.raises(UserError, match=r"WANDB_NAME=one: has no effect: .* unset it"):
        make_plan(["+algo=ppo"])
    make_plan(["+algo=ppo", "wandb.mode=disabled"])
    compose_settings.cache_clear()


def test_arguments_of_an_environment_are_part_of_its_runs() -> None:
    plain, other = (make_plan(["+algo=ppo", *more]).jobs[0] for more in ([], ["env.kwargs.reset_noise_scale=0.2"]))
    assert identity(plain.asked) != identity(other.asked)
    assert Run(plain, 0).label == "fp32"
    assert Run(other, 0).label.startswith("fp32~")
    assert other.from_json(other.to_json()) == other
