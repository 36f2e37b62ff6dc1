"""Files around the code that say the same thing as pyproject.toml and .ci/run, or should."""

import re
import tomllib
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CI = (ROOT / ".ci" / "run").read_text()
CHECKS = [command.strip() for command in re.findall(r"\.venv/bin/((?:ruff|mypy|pytest)[^&\n]*)", CI)]


def test_make_check_runs_what_ci_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    assert [line.removeprefix("\t$(BIN)/") for line in recipe[1].splitlines()] == CHECKS
    assert CHECKS[-1] == "pytest"


def test_the_workflow_covers_every_allowed_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["check"]["strategy"]["matrix"]["python"]
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert tested == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]
    assert {"run": ".ci/run"} in workflow["jobs"]["check"]["steps"]
    assert {"run": ".venv/bin/pytest -m slow"} in workflow["jobs"]["slow"]["steps"]


def test_hooks_run_the_checks_of_ci() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].removeprefix(".venv/bin/").split(" --")[0] for hook in repository["hooks"]]
    assert entries == ["ruff check", "ruff format", "mypy"]


def test_constraints_name_an_allowed_version_of_every_dependency() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    versions = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{line}: {version}"


def test_every_package_says_that_it_is_typed() -> None:
    for package in ("rlc", "trainers", "compression", "measure"):
        assert (ROOT / package / "py.typed").is_file()


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{PROJECT['version']}]" in text
