"""Files that are written whole or not at all, and whether those of an artifact still are."""

import hashlib
import json
import os
from pathlib import Path

ONNX_FILE = "policy.onnx"
TENSOR_FILE = "policy.safetensors"
CONTRACT_FILE = "policy.json"
# The way out of a damaged file, at the end of a message.
AGAIN = "; copy it again from where it is whole, or make it again"


def write_atomic(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(content: bytes) -> str:
    """SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def hashes_match(folder: Path) -> bool:
    """Whether all files of an artifact are there with the hashes its contract names."""
    try:
        hashes = json.loads((folder / CONTRACT_FILE).read_text())["sha256"]
        return all(sha256((folder / name).read_bytes()) == hashes[name] for name in (ONNX_FILE, TENSOR_FILE))
    except (OSError, ValueError, KeyError, TypeError):
        return False
