"""Write settings.md from the comments in conf/, and zoo.md from the cards of the zoo.

Run by hand: python docs/reference/generate.py
"""

import json
import re
from pathlib import Path
from typing import Any

from rlc.comments import bases, head, settings

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
    *((f"python -m rlc.{name}", f"{name}.yaml", "") for name in ("compress", "evaluate", "export")),
    ("python -m rlc.measure", "measure.yaml", ""),
    *((f"python -m rlc.{name}", f"{name}.yaml", "") for name in ("report", "dashboard", "status", "pack", "unpack")),
    ("python -m rlc.zoo", "zoo.yaml", ""),
]
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
leads to the card of a policy: its returns, settings, seed, commit, and learning curve where the run has one. The films
have the first four seconds of the first episode that was played. KB: of the weights.
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


def page() -> str:
    """The whole reference."""
    return "\n".join([HEAD, *(_section(*file) for file in FILES)])


def zoo_page() -> str:
    """The page of the zoo."""
    titles = ("policy", "film", "return", "episodes", "random", "zero", "steps", "seed", "chosen of", "KB", "commit")
    lines = [ZOO_HEAD, f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [_policy_row(file) for file in sorted(ZOO.glob("*/card.json"))]
    return "\n".join([*lines, ZOO_TAIL])


def _policy_row(file: Path) -> str:
    card: dict[str, Any] = json.loads(file.read_text())
    name = file.parent.name
    film = file.with_name("film.webp")
    cells = (
        f"[`{name}`](../../{file.relative_to(ROOT)})",
        f"![{name}](../../{film.relative_to(ROOT)})" if film.exists() else "",
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
    inherited = ", ".join(f"`{base.stem}`" for base in bases(path))
    if inherited:
        lines += [f"Where it differs from {inherited}, whose other settings it has too:", ""]
    lines += ["| setting | default | meaning |", "|---|---|---|"]
    for setting in settings(path):
        default = "" if setting.default is None else _shown(setting.default)
        lines.append(f"| `{prefix}{setting.key}` | {default} | {_escaped(setting.meaning)} |")
    return "\n".join([*lines, ""])


def _description(path: Path) -> list[str]:
    """What the head of a file says. A command in it is an example."""
    return [f"Example: `{line}`." if line.startswith("python -m ") else line for line in head(path)]


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
