"""Write settings.md from the comments in conf/, and zoo.md from the cards of the zoo.

Run by hand: python docs/reference/generate.py
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PAGE = Path(__file__).with_name("settings.md")
ZOO = ROOT / "rlc" / "data" / "zoo"
ZOO_PAGE = Path(__file__).with_name("zoo.md")
# Title, file, and what stands before its keys on a command line.
FILES = [
    ("python -m rlc.train", "train.yaml", ""),
    *((f"+algo={name}", f"algo/{name}.yaml", "algo.") for name in ("trpo", "ppo", "ddpg", "td3", "sac")),
    *((f"+compress={name}", f"compress/{name}.yaml", "compress.") for name in ("qat", "ptdq", "ptsq")),
    *(
        (f"+compress={name}", f"compress/{name}.yaml", "compress.")
        for name in ("prune_l2", "prune_l1", "prune_ptdq", "prune_ptsq", "prune_qat")
    ),
    ("python -m rlc.evaluate", "evaluate.yaml", ""),
    ("python -m rlc.measure", "measure.yaml", ""),
    ("python -m rlc.report", "report.yaml", ""),
]
# Parts of a file that are no settings of a job: Hydra's own, and names that the choice of the file settles.
LEFT_OUT = {"defaults", "hydra", "name", "method"}
HEAD = """\
# Settings

Generated from the comments in `conf/` by `python docs/reference/generate.py`: change them there.

Every setting is given as `key=value` on the command line. `algo`, `compress` and `experiment` are chosen with a plus
(`+algo=sac`), everything else without one (`algo.gamma=0.98`). `env=<name>` chooses a file of `conf/env/`;
`env.version=v5` takes another version of it, `env.id=<id>` any Gymnasium environment with `Box` spaces, and
`env.kwargs.<name>=<value>` is given to its constructor.

A name in brackets is the source of a default; "paper" is the paper that the section names. A default may depend on the
environment (`${by_env:...}` in `conf/algo/`), by its name, whatever its version.
What commands do: [commands.md](commands.md).
"""
ZOO_HEAD = """\
# Policies that come with rlc

Trained fp32 policies, one for each algorithm and environment that has one so far, as `zoo:<name>`. No training is
needed to compress one, to play it, and to deploy it as ONNX or as C:

```
python -m rlc.zoo
python -m rlc.compress policy=zoo:sac-hopper +compress=ptsq to=small
python -m rlc.evaluate policy=small baseline=zoo:sac-hopper
python -m rlc.export policy=small target=c to=deployed
```

`rlc.compress`, `rlc.evaluate` and `rlc.export` make the artifact of a name in `outputs/zoo/<name>/`. The first column
leads to the card of a policy: its returns, settings, seed, commit, and learning curve where the run has one.
Generated from the cards by `python docs/reference/generate.py`.
"""
ZOO_TAIL = """\

- **Return**: mean and standard deviation over that many episodes of deterministic actions, played when the policy was
  added, on other start states than those it was chosen by.
- **Chosen**: the run with the highest return in its own record, of so many runs of that pair; it must beat random and
  zero actions. The best of several seeds is better than a seed of yours: for what to expect of an algorithm, see a
  study. Steps differ between policies, so the table compares no algorithms.
- **Commit**: that of the code that wrote the record of the run.
- **Sources**: the committed study, `outputs/paper/pack`, and the policies that tests use, `tests/data/policies`; the
  card names which.

## Add policies

```
python -m rlc.zoo add=outputs/paper/pack,tests/data/policies
python docs/reference/generate.py
```

takes packs and folders with runs in them. A policy of the zoo is replaced by one with a higher recorded return, and
played anew only then. Stored are the tensors, the contract and the card; `policy.onnx`, half of the bytes, is made
again from them and must give the golden actions. A wheel has all of it.
"""


class Setting(NamedTuple):
    """A key of a configuration file, its default as written there (None for a group of settings), and its meaning."""

    key: str
    default: str | None
    meaning: str


def settings(path: Path) -> Iterator[Setting]:
    """The settings of a file in `conf/`, in order; a meaning it lacks is that of the file its defaults name."""
    inherited = {name: setting.meaning for base in _bases(path) for name, setting in by_key(base).items()}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in path.read_text().splitlines()[len(_head(path)) :]:
        found = re.fullmatch(r"( *)([\w/]+):(?: +([^#\s].*?))?(?: *# (.*))?", line)
        if found is None:
            comment = re.fullmatch(r" *# (.*)", line)
            above = [*above, comment[1]] if comment else []
            continue
        indent = len(found[1])
        parents = [parent for parent in parents if parent[0] < indent]
        names = [name for _, name in parents] + [found[2]]
        parents.append((indent, found[2]))
        # A remark beside the key comes first, then the lines above it.
        meaning = ". ".join(part for part in (found[4], " ".join(above)) if part)
        above = []
        key = ".".join(names)
        meaning = meaning or inherited.get(key, "")
        if names[0] not in LEFT_OUT and (found[3] or meaning):
            yield Setting(key, found[3], meaning)


def by_key(path: Path) -> dict[str, Setting]:
    """The settings of a file in `conf/` by their keys."""
    return {setting.key: setting for setting in settings(path)}


def page() -> str:
    """The whole reference."""
    return "\n".join([HEAD, *(_section(*file) for file in FILES)])


def zoo_page() -> str:
    """The page of the zoo."""
    titles = ("policy", "return", "episodes", "random", "zero", "steps", "seed", "chosen of", "weights KB", "commit")
    lines = [ZOO_HEAD, f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [_policy_row(file) for file in sorted(ZOO.glob("*/card.json"))]
    return "\n".join([*lines, ZOO_TAIL])


def _policy_row(file: Path) -> str:
    card: dict[str, Any] = json.loads(file.read_text())
    name = file.parent.name
    cells = (
        f"[`{name}`](../../{file.relative_to(ROOT)})",
        f"{card['return_mean']:.0f} +- {card['return_std']:.0f}",
        str(card["episodes"]),
        str(round(card["random_return_mean"])),
        str(round(card["zero_return_mean"])),
        f"{card['total_steps']:,}",
        str(card["seed"]),
        str(card["candidates"]),
        f"{file.with_name('policy.safetensors').stat().st_size / 1000:.0f}",
        f"`{card['git_commit'][:8]}`" if card["git_commit"] else "",
    )
    return f"| {' | '.join(cells)} |"


def _section(title: str, name: str, prefix: str) -> str:
    path = CONF / name
    link = f"From [conf/{name}](../../conf/{name})."
    lines = [f"## `{title}`", "", " ".join([*_description(path), link]), ""]
    bases = ", ".join(f"`{base.stem}`" for base in _bases(path))
    if bases:
        lines += [f"Where it differs from {bases}, whose other settings it has too:", ""]
    lines += ["| setting | default | meaning |", "|---|---|---|"]
    for setting in settings(path):
        default = "" if setting.default is None else _shown(setting.default)
        lines.append(f"| `{prefix}{setting.key}` | {default} | {_escaped(setting.meaning)} |")
    return "\n".join([*lines, ""])


def _description(path: Path) -> list[str]:
    """What the head of a file says. A command in it is an example."""
    return [f"Example: `{line}`." if line.startswith("python -m ") else line for line in _head(path)]


def _head(path: Path) -> list[str]:
    """The lines of the comment that a file begins with."""
    lines = path.read_text().splitlines()
    return [line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


def _bases(path: Path) -> list[Path]:
    """The files of the same folder that a file's list of defaults begins with."""
    block = re.search(r"^defaults:\n((?: +- .*\n)+)", path.read_text(), re.M)
    names = re.findall(r"- (\w+)$", block[1], re.M) if block else []
    return [path.with_name(f"{name}.yaml") for name in names if name != "_self_"]


def _shown(default: str) -> str:
    """A default for a cell of a table."""
    if default == "???":
        return "none, must be given"
    variable = re.fullmatch(r"\$\{variable:(\w+),(\w+)\}", default)
    if variable:
        return f"`{variable[2]}`, or the environment variable `{variable[1]}`"
    choice = re.fullmatch(r"\$\{by_env:([^,]+),\{(.*)\}\}", default)
    if choice is None:
        return f"`{_escaped(default)}`"
    named = [entry.split(":") for entry in choice[2].split(",")]
    return ", ".join([f"`{choice[1]}`", *(f"{name} `{value}`" for name, value in named)])


def _escaped(text: str) -> str:
    """Text for a cell, in which Markdown would take a bar for a border and `<name>` for HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "\\<", text.replace("|", "\\|"))


if __name__ == "__main__":
    PAGE.write_text(page())
    ZOO_PAGE.write_text(zoo_page())
