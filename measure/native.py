"""A policy as C, built for a measurement: how it is called from Python, and its bytes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from compression.native.folder import export_native
from compression.native.generate import Options
from compression.native.loader import Binding, load
from compression.native.toolchain import NO_COMPILER, Sizes, find_compiler
from measure.latency import Call
from trainers.errors import UserError

NO_SIZES = "no `size` of binutils for this compiler"
NO_STACK = "the compiler does not tell how much stack a function takes"


@dataclass(frozen=True)
class NativeBuild:
    """The policy compiled for this machine; it passed its self-test.

    `act` takes one observation [obs_dim], not a batch. `binding` says how Python calls it. `sizes` are of small code
    (-Os); where they are None in whole or in part, `sizes_reason` says why.
    """

    act: Call
    binding: Binding
    sizes: Sizes | None
    sizes_reason: str | None


def build_native(artifact: Path) -> NativeBuild | str:
    """Build the policy of an artifact with the default options; the reason in one line where that cannot be."""
    try:
        with tempfile.TemporaryDirectory(prefix="rlc-measure-") as home:
            folder = Path(home) / "c"
            # Before the compiler: a policy that has no C form has none anywhere.
            sizes = export_native(artifact, folder, Options()).sizes
            if find_compiler() is None:
                return NO_COMPILER
            policy = load(folder)
    except UserError as error:
        # The reason stands in a file: of no setting of a command.
        return str(error).removeprefix("target=c: ")
    return NativeBuild(policy.act, policy.binding, sizes, _why_incomplete(sizes))


def _why_incomplete(sizes: Sizes | None) -> str | None:
    if sizes is None:
        return NO_SIZES
    return NO_STACK if sizes.stack is None else None
