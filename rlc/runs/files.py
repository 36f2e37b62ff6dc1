"""The one reader and the one writer of a run's records.

Every record names the version of its schema. Records that were made before there was one lack the field and are read
as version 1: they have the same keys, some of them fewer.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from compression.files import hashes_match, write_atomic
from rlc.runs.records import NOT_PACKED, SCHEMA_VERSION, RunResult, RunStatus, VersionedRecord
from trainers.errors import UserError

OUTPUTS = Path("outputs")
ARTIFACT = "artifact"
CONFIG_FILE = "config.yaml"
# The pack of a study, in its directory.
PACK = "pack"
RESULT_FILE = "result.json"
STATUS_FILE = "status.json"
MEASUREMENT_FILE = "measurement.json"
AnyRecord = TypeVar("AnyRecord", bound=VersionedRecord)


def parse_record(kind: type[AnyRecord], data: dict[str, Any]) -> AnyRecord:
    """The object of a JSON file as a record of the schema of today.

    Raises:
        UserError: its schema is newer than this code.
        ValueError: it lacks something, or something is of another type.
    """
    version = data.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"schema_version={version}: made by a newer rlc; this one reads up to {SCHEMA_VERSION}: use a newer one"
        )
    return kind.model_validate(data | {"schema_version": SCHEMA_VERSION})


def read_record(kind: type[AnyRecord], path: Path) -> AnyRecord | None:
    """The record in a file; None where there is none, or one that is not whole.

    Raises UserError where its schema is newer than this code.
    """
    data = read_json(path)
    if data is None:
        return None
    try:
        return parse_record(kind, data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError:
        return None


def write_record(path: Path, record: VersionedRecord) -> None:
    """Write a record whole or not at all."""
    data = {"schema_version": SCHEMA_VERSION} | record.fields()
    write_atomic(path, json.dumps(data, indent=1).encode())


def is_finished(path: Path, identity: str, status: RunStatus | None, result: RunResult | None) -> bool:
    """Whether the records of a run directory are those of a finished run of these settings, and its artifact is whole.

    A run that came from a pack without its policy is finished without an artifact.
    """
    if status is None or result is None or status.state != "done" or status.identity != identity:
        return False
    return status.artifact == NOT_PACKED or hashes_match(path / ARTIFACT)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
