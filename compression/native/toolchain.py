"""The C compiler of this machine: what it makes of an exported folder, and how large that is."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.errors import UserError

COMPILERS = ("cc", "gcc", "clang")
NO_COMPILER = "no C compiler: install gcc or clang, or name one in the environment variable CC"
FAST = ("-std=c99", "-O3", "-march=native")
SMALL = ("-std=c99", "-Os")
TIMEOUT_S = 300


class NativeError(UserError):
    """A policy in C that does not compile or fails its self-test, in one line."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a policy in C: instructions, constants, and the largest stack of a call; None where not measured."""

    code: int
    constants: int
    stack: int | None


def find_compiler() -> list[str] | None:
    """The command of the C compiler: the environment variable CC, or the first of cc, gcc and clang."""
    named = os.environ.get("CC", "").split()
    for command in ([named] if named else []) + [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    return None


def require_compiler() -> list[str]:
    """As `find_compiler`; raises NativeError where there is none."""
    compiler = find_compiler()
    if compiler is None:
        raise NativeError(NO_COMPILER)
    return compiler


def compile_c(compiler: Sequence[str], arguments: Sequence[str | Path]) -> None:
    """Run the compiler. Raises NativeError with the first error it prints."""
    outcome = _run([*compiler, *arguments])
    if outcome.returncode:
        raise NativeError(f"{' '.join(compiler)}: {_first_error(outcome.stderr)}")


def self_test(folder: Path, compiler: Sequence[str], flags: Sequence[str] = FAST) -> str:
    """Compile and run policy_test.c of an exported folder; what it printed first. Raises NativeError where it fails."""
    with tempfile.TemporaryDirectory() as build:
        program = Path(build) / "policy_test"
        compile_c(compiler, [*flags, "-o", program, folder / "policy_test.c", "-lm"])
        outcome = _run([program])
    if outcome.returncode:
        raise NativeError(f"{folder}: the self-test of the C code failed: {outcome.stdout}")
    return outcome.stdout.splitlines()[0]


def measure_sizes(folder: Path, compiler: Sequence[str], flags: Sequence[str] = SMALL) -> Sizes | None:
    """Sizes of policy.c of an exported folder as the compiler makes it; None where `size` of binutils is missing."""
    with tempfile.TemporaryDirectory() as build:
        target = Path(build) / "policy.o"
        compile_c(compiler, [*flags, "-fstack-usage", "-c", "-o", target, folder / "policy.c"])
        tool = _size_tool(compiler)
        if tool is None:
            return None
        sections = _section_sizes(_run([tool, "-A", target]).stdout)
        usage = target.with_suffix(".su")
        stack = _stack_bytes(usage.read_text()) if usage.exists() else None
    code = sum(size for name, size in sections.items() if name.startswith(".text"))
    constants = sum(size for name, size in sections.items() if name.startswith(".rodata"))
    return Sizes(code, constants, stack)


def _size_tool(compiler: Sequence[str]) -> str | None:
    """`size` of the compiler's own binutils: that of a cross compiler has its prefix."""
    name = Path(compiler[0]).name
    prefix = name.removesuffix("gcc") if name.endswith("-gcc") else ""
    return shutil.which(f"{prefix}size")


def _section_sizes(text: str) -> dict[str, int]:
    """Of what `size -A` prints: bytes by section."""
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)\s+\d+$", text, re.M)}


def _stack_bytes(text: str) -> int:
    """Of the compiler's stack usage, a line per function: policy_step, and the deepest function that it calls."""
    frames = {line.split("\t")[0].rpartition(":")[2]: int(line.split("\t")[1]) for line in text.splitlines()}
    step = frames.pop("policy_step")
    return step + max(frames.values(), default=0)


def _run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def _first_error(text: str) -> str:
    errors = [line for line in text.splitlines() if "error" in line.lower()]
    return (errors or text.splitlines() or ["failed"])[0]
