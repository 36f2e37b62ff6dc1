"""Command lines and files that nobody meant: one line and exit code 2, or success; never a traceback."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlc import compress, evaluate, export, measure, pack, report, sources, status, train, unpack, zoo
from rlc.cli import run_command
from rlc.config import compose
from rlc.config.help import ANSWERED
from rlc.datafiles import CONF
from tests.helpers import as_run
from tests.packed import tree

COMMAND_LINES = 240
FILES = 80
STRANGE = [
    "",
    " ",
    "'",
    '"',
    "\\",
    "$",
    "${",
    "${x}",
    "${oc.env:HOME}",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    "=",
    "==",
    ":",
    "~",
    "*",
]
STRANGE += [
    "?",
    "%s",
    "#",
    "|",
    "&",
    ";",
    "<",
    ">",
    "\t",
    "\n",
    "ä",
    "∞",
    "-",
    "--",
    "+",
    "++",
    "@",
    "!",
    "../",
    "null",
    "nan",
    "1e400",
]
STRANGE += [
    "9" * 50,
    "9" * 5000,
    "[" * 300,
    "a" * 300,
    "true",
    "-1",
    "0.5",
    "[1,2]",
    "{a:1}",
    "choice(1,2)",
    "range(0,0)",
    "glob(*)",
]
KEYS = [
    "algo.gamma",
    "algo.lr",
    "algo.hidden",
    "seed",
    "total_steps",
    "study",
    "env",
    "env.id",
    "env.version",
    "env.kwargs.a",
    "env.kwargs",
]
KEYS += [
    "device",
    "threads",
    "compile",
    "eval.episodes",
    "wandb.mode",
    "wandb.project",
    "hydra.run.dir",
    "hydra/launcher",
    "hydra.mode",
]
KEYS += [
    "+algo",
    "+compress",
    "+experiment",
    "compress.ratio",
    "protocol",
    "overwrite",
    "hydra.sweeper.params.seed",
    "checkpoint_every",
]
VALUES = [
    "0",
    "1",
    "sac",
    "ppo",
    "hopper",
    "Hopper-v4",
    "tests.own_envs:Ints-v0",
    "nowhere:X",
    "qat",
    "prune_l1",
    "quickstart",
    "0.5",
    "a/b",
]
TRAIN = [
    "+algo=sac",
    "+algo=ppo",
    "env=hopper",
    "env.id=Pendulum-v1",
    "+compress=qat",
    "+compress=ptdq,fp32",
    "seed=0,1",
    "seed=[0,1]",
    "-m",
]
TRAIN += [
    "--cfg job",
    "--info",
    "-x",
    "env.kwargs.g=9.8",
    "wandb.mode=disabled",
    "study=mine",
    "total_steps=20000",
    "+experiment=quickstart",
]
SMALL = {
    "status": ["study=fixtures", "study=none", "--json", "+algo=sac", "-m"],
    "report": ["study=none", "env=Hopper*", "algo=trpo", "seed=0", "wandb.mode=disabled", "label=fp32"],
    "measure": ["study=none", "calls=10000", "episodes=1", "energy.rounds=2", "num_copies=3"],
    "evaluate": [
        "run=nowhere",
        "run=outputs",
        "episodes=0",
        "seed=1",
        "video=maybe",
        "policy=zoo:none",
        "noise=-1",
        "drop=1",
        "delay=0.5",
    ],
    "export": ["run=nowhere", "to=there", "run=~nobody/x"],
    "compress": [
        "policy=nowhere.zip",
        "policy=outputs",
        "env=hopper",
        "+compress=ptsq",
        "to=there",
        "statistics=x.npz",
        "activation=elu",
    ],
    "pack": ["study=none", "to=there", "study=../x"],
    "unpack": ["from=nowhere", "from=,", "study=other"],
    "zoo": ["add=nowhere", "add=outputs/none", "to=there"],
}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "status": status.status,
    "report": report.report,
    "measure": measure.measure,
    "evaluate": evaluate.evaluate_run,
    "export": export.export,
    "compress": compress.compress,
    "pack": pack.pack,
    "unpack": unpack.unpack,
    "zoo": zoo.zoo,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a finished run, in which nothing is trained."""
    monkeypatch.chdir(tmp_path)
    as_run("trpo-halfcheetah", study="fixtures")
    monkeypatch.setattr("rlc.pipeline.job.run_job", lambda job: None)
    monkeypatch.setattr("rlc.train.launch_and_watch", lambda plan, runs: None)
    monkeypatch.setattr("rlc.evaluate.evaluate", lambda *_, **__: pytest.skip("played"))
    return tmp_path


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["rlc", *arguments])
    try:
        train.main() if name == "train" else run_command(COMMANDS[name])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def check(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any, lines: int = 1) -> None:
    before = tree(Path())
    capsys.readouterr()
    code = run(name, arguments, monkeypatch)
    shown = capsys.readouterr()
    told = f"{name} {arguments}: {code}: {shown.err[:500]}"
    # A run that was planned and not done, as nothing is trained here, is said to have failed.
    planned = name == "train" and code == 1 and "its state is not begun" in shown.err
    assert code in (0, 2) or planned, told
    assert "Traceback" not in shown.err + shown.out, told
    if code == 2:
        assert shown.err.startswith("rlc: "), told
        assert 1 <= shown.err.count("\n") <= lines, told
        assert tree(Path()) == before, told


def mutated(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text) + 1)
    kind = chance.choice(["insert", "cut", "replace"])
    if kind == "cut":
        return text[:place]
    return text[:place] + chance.choice(STRANGE) + text[place + (kind == "replace") :]


def argument(chance: random.Random, pool: list[str]) -> str:
    kind = chance.random()
    if kind < 0.45:
        return chance.choice(pool)
    if kind < 0.7:
        return f"{chance.choice(KEYS)}={chance.choice(VALUES + STRANGE)}"
    return mutated(chance.choice(pool + KEYS), chance)


@pytest.mark.parametrize("part", range(6))
def test_command_lines(part: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for number in range(part, COMMAND_LINES, 6):
        chance = random.Random(number)
        name = chance.choice(["train", "train", "train", *SMALL])
        pool = TRAIN if name == "train" else SMALL[name]
        lines = [argument(chance, pool) for _ in range(chance.randrange(6))]
        arguments = [word for line in lines for word in (line.split(" ") if line.startswith("--") else [line])]
        if not {word.partition("=")[0] for word in arguments} & set(ANSWERED):
            check(name, arguments, monkeypatch, capsys)


TOUCHED = ["config.yaml", "status.json", "result.json", "artifact/policy.json"]


@pytest.mark.parametrize("part", range(2))
def test_files_of_a_run(part: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A run whose files somebody has edited is left out or refused by every command."""
    (folder,) = home.glob("outputs/fixtures/*/*/*/seed*")
    whole = {name: (folder / name).read_text() for name in TOUCHED}
    for number in range(part, FILES // 2, 2):
        chance = random.Random(number)
        name = chance.choice(TOUCHED)
        text = whole[name]
        for _ in range(chance.randrange(1, 4)):
            text = mutated(text, chance)
        (folder / name).write_text(text)
        command = chance.choice(["status", "export", "pack", "report"])
        target = f"run={folder}" if command == "export" else "study=fixtures"
        more = ["wandb.mode=disabled"] if command == "report" else []
        check(command, [target, *more], monkeypatch, capsys, lines=2)
        (folder / name).write_text(whole[name])
        for left in (home / "outputs/fixtures/report", home / "outputs/fixtures/pack"):
            shutil.rmtree(left, ignore_errors=True)


@pytest.mark.parametrize("part", range(2))
def test_files_of_settings(part: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """An environment, an algorithm and a preset of the user's own in conf/."""
    own = home / "conf"
    shutil.copytree(CONF, own)
    monkeypatch.setattr("rlc.config.compose.CONF", own)
    monkeypatch.setattr(sources, "CONF", own)
    files = {"env/mine": "env/hopper", "algo/mine": "algo/sac", "experiment/mine": "experiment/quickstart"}
    for number in range(part, FILES // 2, 2):
        chance = random.Random(number)
        name, source = chance.choice(list(files.items()))
        text = (own / f"{source}.yaml").read_text()
        for _ in range(chance.randrange(1, 4)):
            text = mutated(text, chance)
        (own / f"{name}.yaml").write_text(text)
        compose.compose_config.cache_clear()
        compose.compose_settings.cache_clear()
        group = name.partition("/")[0]
        chosen = "env=mine" if group == "env" else f"+{group}=mine"
        check("train", [chosen, *(["+algo=sac"] if group == "env" else [])], monkeypatch, capsys)
    compose.compose_config.cache_clear()
    compose.compose_settings.cache_clear()


def test_there_are_three_hundred_inputs() -> None:
    assert COMMAND_LINES + FILES >= 300
    assert json.dumps(STRANGE)
