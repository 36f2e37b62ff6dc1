"""A wheel, unpacked into a fresh environment: the commands find conf/ and their data from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ("rlc", "trainers", "compression", "measure")
SOURCES = ("conf", *PACKAGES, "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
PLAN = """
from rlc import datafiles
from rlc.config.plan import make_plan
jobs = make_plan(["+algo=sac", "+compress=qat", "env=hopper", "seed=0,1", "-m"]).jobs
print(len(jobs), jobs[0].settings.env.id, len(datafiles.read("paper/table1.csv")))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: a build leaves files beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that has the wheel, and the dependencies of this one behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)})) / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_conf_data_and_types(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"rlc/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "rlc" / "data").rglob("*") if path.is_file()}
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "compression/native/templates").iterdir()}
    assert conf
    assert data
    assert templates
    assert conf | data | templates | {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert {name.split("/")[0] for name in inside if ".dist-info/" not in name} == set(PACKAGES)


def test_an_installed_wheel_plans_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "-c", PLAN).split() == ["2", "Hopper-v4", "25"]
    assert not list(tmp_path.iterdir())


def test_an_installed_wheel_shows_its_settings(installed: Path, tmp_path: Path) -> None:
    assert "a file of conf/algo: trpo, ppo, ddpg, td3 or sac" in run(installed, tmp_path, "-m", "rlc.train", "--help")
    shown = run(installed, tmp_path, "-m", "rlc.train", "+algo=sac", "--cfg", "job")
    assert shown.startswith("algo:\n  name: sac\n")
    searched = run(installed, tmp_path, "-m", "rlc.train", "+algo=sac", "--info", "searchpath")
    assert str(ROOT) not in searched.replace(str(installed.parent.parent), "")


def test_an_installed_wheel_knows_no_commit(installed: Path, tmp_path: Path) -> None:
    """Also where its environment lies inside the checkout of something else."""
    environment = installed.parent.parent
    subprocess.run(["git", "init", "--quiet", str(environment)], check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    commit = ["git", "-C", str(environment), *identity, "commit", "--quiet", "--allow-empty", "--message", "another"]
    subprocess.run(commit, check=True)
    code = "from rlc.runs.provenance import provenance as p; print(p().git_commit, p().git_dirty)"
    assert run(installed, tmp_path, "-c", code).split() == ["None", "None"]
