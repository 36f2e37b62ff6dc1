"""Print constraints.txt: the installed versions of what rlc needs at run time, itself or through something it needs."""

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The versions that rlc is developed and measured with: everything it needs at run time, itself or through
# something it needs, on Linux with x86-64 and Python 3.11. pyproject.toml says what else is allowed. To use them:
#     .venv/bin/pip install --editable . --constraint constraints.txt
# Made in the environment that is to be written down, by
#     .venv/bin/python .ci/constraints.py > constraints.txt
# A version of torch for one kind of GPU goes by the same number; the libraries that it brings are not listed.\
"""


def main() -> None:
    """Follow the requirements of rlc, with the extras that are asked for, through what is installed."""
    waiting = [Requirement("rlc")]
    seen: set[tuple[str, str]] = set()
    versions: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                package = distribution(name)
            except PackageNotFoundError:
                print(f"# not installed: {name}")
                continue
            versions[name] = package.version.partition("+")[0]
            needed = [Requirement(line) for line in package.requires or ()]
            waiting += [item for item in needed if item.marker is None or item.marker.evaluate({"extra": extra})]
    del versions["rlc"]
    print(HEADER)
    for name, version in sorted(versions.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
