"""A policy in C, back in Python. Imports neither torch nor ONNX Runtime."""

import ctypes
import importlib.machinery
import importlib.util
import json
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compression.native.toolchain import FAST, NativeError, compile_c, require_compiler
from trainers.errors import UserError

FloatArray = NDArray[np.float32]
Binding = Literal["extension", "ctypes"]
EXTENSION_SOURCE = Path(__file__).parent / "templates" / "policy_ext.c"


class NativePolicy:
    """A compiled policy at batch 1.

    `act(obs)`: raw observation [obs_dim] -> a new action [act_dim] in environment units, float32. Raises ValueError
    for an observation of another shape. `binding` says how it is called, `contract` is that of the folder.
    """

    def __init__(self, act: Callable[[Any], FloatArray], binding: Binding, contract: dict[str, Any]) -> None:
        # An attribute, not a method: a Python frame would cost a tenth of the call.
        self.act = act
        self.binding = binding
        self.contract = contract

    def __call__(self, obs: FloatArray) -> FloatArray:
        return self.act(obs)


def load(folder: str | Path, *, binding: Binding | None = None, flags: Sequence[str] = FAST) -> NativePolicy:
    """The policy of a folder that `target=c` wrote, compiled for this machine.

    Args:
        folder: the exported folder; nothing is written into it.
        binding: extension or ctypes; None takes the extension where Python's headers are there.
        flags: for the C compiler.

    Raises:
        NativeError: without a C compiler, or where the code does not compile.
        UserError: for a folder that holds no exported policy.

    """
    folder = Path(folder).resolve()
    contract = _read_contract(folder)
    compiler = require_compiler()
    if binding is None:
        binding = "extension" if _has_headers() else "ctypes"
    # A loaded library needs its file no more.
    with tempfile.TemporaryDirectory(prefix="rlc-native-") as build:
        if binding == "extension":
            act = _extension(folder, Path(build), [*compiler, *flags])
        else:
            act = _through_ctypes(folder, Path(build), [*compiler, *flags], contract)
    return NativePolicy(act, binding, contract)


def _read_contract(folder: Path) -> dict[str, Any]:
    try:
        contract = json.loads((folder / "policy.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no policy in C: {error}; allowed: a folder of rlc.export target=c") from error
    if not isinstance(contract, dict) or "native" not in contract or not (folder / "policy.c").exists():
        raise UserError(f"{folder} holds no policy in C; allowed: a folder that rlc.export target=c wrote")
    return contract


def _has_headers() -> bool:
    return (Path(sysconfig.get_path("include")) / "Python.h").exists()


def _extension(folder: Path, build: Path, command: Sequence[str]) -> Callable[[Any], FloatArray]:
    library = build / f"policy_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    if not _has_headers():
        raise NativeError("binding=extension: Python's headers are missing; allowed: ctypes")
    includes = [f"-I{folder}", f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}"]
    sources = [EXTENSION_SOURCE, folder / "policy.c"]
    compile_c(command, ["-shared", "-fPIC", *includes, "-o", library, *sources, "-lm"])
    loader = importlib.machinery.ExtensionFileLoader("policy_ext", str(library))
    spec = importlib.util.spec_from_loader("policy_ext", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    act: Callable[[Any], FloatArray] = module.act
    return act


def _through_ctypes(
    folder: Path, build: Path, command: Sequence[str], contract: dict[str, Any]
) -> Callable[[Any], FloatArray]:
    library = build / "policy.so"
    compile_c(command, ["-shared", "-fPIC", "-o", library, folder / "policy.c", "-lm"])
    step = ctypes.CDLL(str(library)).policy_step
    step.restype = None
    environment = contract["environment"]
    obs = np.zeros(environment["observation"]["shape"], np.float32)
    action = np.zeros(environment["action"]["shape"], np.float32)
    obs_pointer = ctypes.c_void_p(obs.ctypes.data)
    action_pointer = ctypes.c_void_p(action.ctypes.data)

    def act(given: Any) -> FloatArray:
        if np.shape(given) != obs.shape:
            raise ValueError(f"an observation has {len(obs)} entries, not the shape {np.shape(given)}")
        obs[:] = given
        step(obs_pointer, action_pointer)
        return action.copy()

    return act
