"""The house: which package may import which, what is never imported, what the README promises."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.helpers import ROOT

FLOORS = ["trainers", "compression", "measure", "rlc"]  # each may use itself and those before it
ONLY_RLC = {"hydra", "omegaconf", "optuna", "rich", "wandb", "wandb_workspaces"}
# Inside a package a file may use those of its own group, and of the groups before it.
GROUPS = {
    "trainers": [
        "errors settings tensors rng torch_compat",
        "cuda",
        "nn",
        "envs",
        "data",
        "policy",
        "actor_critic",
        "loops",
        "acceleration on_policy",
        "ddpg td3 sac ppo trpo",
        "registry",
    ],
    "compression": [
        "files int8 lowbit",
        "equalize onnx_export pruning qat lsq",
        "runtime",
        "imports",
        "ptdq",
        "ptsq distill explain",
        "artifact paper",
        "native",
    ],
    "measure": ["statistics machine memory latency", "returns energy native", "video paper disturbance"],
    "rlc": [
        "messages datafiles native comments sources usage",
        "cli config",
        "runs",
        "pipeline",
        "packing",
        "grid reporting",
        "train compress evaluate export measure report dashboard status pack unpack zoo",
    ],
}
MAX_LINES = 300
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


def modules_imported(path: Path) -> set[str]:
    """Modules of the project that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & MODULES.keys()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path for path in SOURCES if path.name != "__init__.py"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_inside_a_package(name: str) -> None:
    package, part = name.split(".")[:2]
    rank = {part: number for number, parts in enumerate(GROUPS[package]) for part in parts.split()}
    for imported in modules_imported(MODULES[name]):
        other_package, other = imported.split(".")[:2]
        if other_package == package and other != part:
            assert rank[other] <= rank[part], imported


def test_no_imports_go_in_a_circle() -> None:
    waiting = {name: modules_imported(path) - {name} for name, path in MODULES.items()}
    while free := {name for name, needed in waiting.items() if not needed & waiting.keys()}:
        for name in free:
            del waiting[name]
    assert not waiting


def test_only_config_and_grid_know_hydra_and_only_two_files_what_is_private() -> None:
    for name, path in MODULES.items():
        if "hydra" in imports(path):
            assert name.startswith(("rlc.config.", "rlc.grid.")), name
        text = path.read_text()
        assert "hydra._internal" not in text or name == "rlc.config.hydra_compat"
        assert not re.search(r"torch\._|mkldnn\._", text) or name == "trainers.torch_compat"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_one_reads(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
COMPOUND = (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def packs_tuples(node: ast.AST) -> bool:
    """Whether a statement assigns several values to as many names; to swap two names is no packing."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
        return False
    target = node.targets[0]
    return isinstance(target, ast.Tuple) and set(map(ast.dump, loads(target))) != set(map(ast.dump, node.value.elts))


def loads(target: ast.Tuple) -> list[ast.expr]:
    """The names that are assigned to, as they are read."""
    return [ast.parse(ast.unparse(element), mode="eval").body for element in target.elts]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_statement_is_one_thought(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        line = getattr(node, "lineno", 0)
        assert not packs_tuples(node), line
        inner = [child for child in ast.walk(node) if child is not node]
        if isinstance(node, COMPREHENSIONS):
            assert not any(isinstance(child, COMPREHENSIONS) for child in inner), f"comprehensions in line {line}"
        if isinstance(node, ast.stmt) and not isinstance(node, COMPOUND):
            assert sum(isinstance(child, ast.IfExp) for child in inner) <= 1, f"ternaries in line {line}"


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
    assert set(project["tool"]["mypy"]["packages"]) == {*FLOORS, "tests"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    ci = (ROOT / ".ci" / "run").read_text()
    assert any("pytest" in command and command in ci for command in commands)
