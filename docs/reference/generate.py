"""Write docs/reference/settings.md from the comments in conf/: python docs/reference/generate.py"""

import re
from pathlib import Path

from rlc.comments import bases, head, settings

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PAGE = Path(__file__).with_name("settings.md")
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
    *((f"python -m rlc.{name}", f"{name}.yaml", "") for name in ("report", "status", "pack", "unpack")),
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


def page() -> str:
    """The whole reference."""
    return "\n".join([HEAD, *(_section(*file) for file in FILES)])


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
