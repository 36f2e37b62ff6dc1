"""Entry points, configuration, runs on disk, grids and reports."""

import sys
from importlib.util import find_spec
from pathlib import Path


def _hidden_packages() -> list[str]:
    """Files that would be imported in the place of the packages that lie beside this one."""
    home = Path(__file__).resolve().parents[1]
    found = []
    for name in ("trainers", "compression", "measure"):
        origin = getattr(find_spec(name), "origin", None)
        if origin is None or Path(origin).resolve().parents[1] != home:
            found.append(f"{origin or name}")
    return found


if sys.argv[:1] == ["-m"]:
    # Here, since the modules of the commands import for seconds what help does not need.
    from rlc import messages, usage

    usage.answer()
    messages.leave_at_ctrl_c()

_hidden = _hidden_packages()
if _hidden:
    _text = (
        f"{', '.join(_hidden)}: stands in front of a package of rlc of that name; rename it, start in another "
        "directory, or keep the current one out with PYTHONSAFEPATH=1"
    )
    if sys.argv[:1] != ["-m"]:
        raise ImportError(_text)
    print(f"rlc: {_text}", file=sys.stderr)
    sys.exit(2)
