"""The one entry to policies that were trained elsewhere: which reader a file needs."""

import zipfile
from collections.abc import Callable

from compression.imports.cleanrl import is_cleanrl, read_cleanrl
from compression.imports.layers import Imported, Request, load_tensors, some
from compression.imports.onnx_mlp import read_onnx
from compression.imports.rsl_rl import is_rsl_rl, read_rsl_rl
from compression.imports.sb3 import read_sb3

FORMATS = {
    ".zip": "Stable-Baselines3",
    ".cleanrl_model": "CleanRL",
    ".pt": "rsl_rl or CleanRL",
    ".pth": "rsl_rl or CleanRL",
    ".onnx": "any trainer, as an ONNX file of linear layers",
}


def read_foreign(request: Request) -> Imported:
    """The policy of a file, by its ending. Raises UserError, in one line, for whatever it does not read or not fit."""
    readers: dict[str, Callable[[Request], Imported]] = {
        ".zip": read_sb3,
        ".cleanrl_model": _read_torch,
        ".pt": _read_torch,
        ".pth": _read_torch,
        ".onnx": read_onnx,
    }
    reader = readers.get(request.path.suffix)
    if not request.path.is_file():
        raise request.refuse(f"there is no such file; allowed: {_allowed()}")
    if reader is None:
        raise request.refuse(f"ends in {request.path.suffix or 'nothing'}; allowed: {_allowed()}")
    return reader(request)


def _read_torch(request: Request) -> Imported:
    if zipfile.is_zipfile(request.path):
        with zipfile.ZipFile(request.path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise request.refuse("is a TorchScript archive, which is code; allowed: a state_dict, or an .onnx file")
    content = load_tensors(request, request.path)
    if is_cleanrl(content):
        return read_cleanrl(request, content)
    if is_rsl_rl(content):
        return read_rsl_rl(request, content)
    found = some([str(key) for key in content]) if isinstance(content, dict) else type(content).__name__
    raise request.refuse(f"is of neither rsl_rl nor CleanRL; found {found}; allowed: {_allowed()}")


def _allowed() -> str:
    return ", ".join(f"{ending} ({origin})" for ending, origin in FORMATS.items())
