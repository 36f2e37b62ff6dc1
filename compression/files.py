"""Files that are written whole or not at all."""

import hashlib
import os
from pathlib import Path

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
