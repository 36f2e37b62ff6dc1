"""The README and docs/: links that lead somewhere, a current reference, examples that run."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlc.comments import LEFT_OUT
from tests.helpers import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
GENERATOR = ROOT / "docs/reference/generate.py"
ARTIFACT = ROOT / "tests/data/policies/sac-hopper"
TOP_FOLDERS = "conf|rlc|trainers|compression|measure|tests|docs"


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
class TestEveryPage:
    def test_relative_links_lead_somewhere(self, page: Path) -> None:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.is_relative_to(ROOT), target
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target

    def test_paths_that_are_named_exist(self, page: Path) -> None:
        for name in re.findall(rf"`((?:{TOP_FOLDERS})/[\w./-]*)`", prose(page)):
            assert (ROOT / name).exists(), name

    def test_functions_beside_links_to_files_are_in_them(self, page: Path) -> None:
        for line in re.split(r"\n(?=\n|\d+\. |- |\|)", prose(page)):
            files = [(page.parent / name).resolve() for name in re.findall(r"\]\(([^)\s]+\.py)\)", line)]
            text = "".join(file.read_text() for file in files)
            for function in re.findall(r"`(\w+)\(\)`", line) if files else ():
                assert f"def {function}(" in text, function


def test_pages_that_code_and_settings_name_exist() -> None:
    for folder in ("conf", "rlc", "trainers", "compression", "measure"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".yaml"):
                for name in re.findall(r"docs/[\w/]+\.md", path.read_text()):
                    assert (ROOT / name).exists(), f"{path}: {name}"


def test_every_page_is_in_the_index_of_the_readme() -> None:
    linked = {(ROOT / name).resolve() for name in re.findall(r"\]\((docs/[^)#]+\.md)", README.read_text())}
    assert linked == set(PAGES) - {README}


def test_the_readme_is_one_screen_after_another() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) < 130
    assert max(map(len, lines)) <= 120


class TestSettingsReference:
    generate: dict[str, Any] = runpy.run_path(str(GENERATOR))

    def test_it_is_current(self) -> None:
        page: Path = self.generate["PAGE"]
        assert page.read_text() == self.generate["page"](), "run: python docs/reference/generate.py"

    def test_the_page_of_the_zoo_is_current(self) -> None:
        page: Path = self.generate["ZOO_PAGE"]
        assert page.read_text() == self.generate["zoo_page"](), "run: python docs/reference/generate.py"

    def test_every_file_of_settings_is_in_it(self) -> None:
        listed = {ROOT / "conf" / name for _, name, _ in self.generate["FILES"]}
        files = {path for part in ("*", "algo/*", "compress/*") for path in (ROOT / "conf").glob(f"{part}.yaml")}
        assert listed == files - {ROOT / "conf/compress/fp32.yaml"}

    def test_every_setting_has_its_default_and_a_meaning(self) -> None:
        for _, name, _ in self.generate["FILES"]:
            path = ROOT / "conf" / name
            found = {s.key: s for s in self.generate["settings"](path) if s.default is not None}
            assert found.keys() == set(leaves(yaml.safe_load(path.read_text()), LEFT_OUT))
            assert all(setting.meaning for setting in found.values()), path


def leaves(node: dict[str, Any], left_out: set[str], prefix: str = "") -> list[str]:
    """Keys of the values in nested mappings, joined by dots."""
    keys: list[str] = []
    for key, value in node.items():
        if prefix or key not in left_out:
            keys += leaves(value, left_out, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


@pytest.mark.parametrize(
    ("question", "expected"), [(["--help"], "algo"), (["+algo=sac", "+compress=qat", "--cfg", "job"], "method: qat")]
)
def test_rlc_train_answers_about_its_configuration(question: list[str], expected: str) -> None:
    command = [sys.executable, "-m", "rlc.train", *question]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert expected in answer.stdout


@pytest.mark.parametrize("page", [README, ROOT / "docs/guides/deploy.md"], ids=lambda p: p.name)
def test_python_examples_run_on_an_artifact(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ARTIFACT, tmp_path / "artifact")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        exec(block, names)
    golden = names["contract"]["golden"]
    last = 0 if page == README else -1
    np.testing.assert_allclose(names["action"][0], golden["actions"][last], atol=golden["tolerance"])
    assert page == README or names["total"] > 3000  # what this policy returns in an episode
