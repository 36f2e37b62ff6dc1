"""The house: which package may import which, what is never imported, what the README promises."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ["trainers", "compression", "measure", "rlc"]  # each may use itself and those before it
ONLY_RLC = {"hydra", "omegaconf", "wandb", "rich"}
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    above = set(FLOORS[FLOORS.index(floor) + 1 :]) | (ONLY_RLC if floor != "rlc" else set())
    assert not imports(path) & above


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_can_unpickle(path: Path) -> None:
    text = path.read_text()
    assert not imports(path) & {"pickle", "cloudpickle", "joblib", "dill"}
    assert "allow_pickle=True" not in text
    for line in re.findall(r".*(?<!safetensors\.)torch\.load.*", text):
        assert "weights_only=True" in line


def test_every_package_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["packages"]["find"]["include"]) == {f"{floor}*" for floor in FLOORS}
    assert set(project["tool"]["mypy"]["packages"]) == set(FLOORS)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    ci = (ROOT / ".ci" / "run").read_text()
    assert any("pytest" in command and command in ci for command in commands)
