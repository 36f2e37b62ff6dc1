"""What a run is found by: hashes of its settings, its label, and the names of its folders."""

import json
import re
from typing import Any

from compression.files import sha256
from rlc.config.compress import BIT_SETTINGS, PruneSettings, QuantizedSettings
from rlc.config.job import Job
from rlc.config.settings import Settings

# Settings that do not change a result: where it goes, what watches it, what it runs on. The seed has its own
# directory, and of the environment only id and kwargs count.
IDENTITY_EXCLUDED = {
    "study",
    "seed",
    "device",
    "threads",
    "compile",
    "env_workers",
    "checkpoint_every",
    "overwrite",
    "fail_fast",
    "wandb",
    "env",
}
# Settings that do not change what is trained.
NOT_TRAINING = frozenset({"eval"})
LABEL_HASH_LENGTH = 6
# Of a folder; file systems take 255 bytes, and a path of Windows 260 characters.
LONGEST_NAME = 100
UNSET = object()
# Settings that have another name now than when the first study was committed, by their section: they are hashed, and
# found in older records, under the old one.
FIRST_NAMES = {"eval": {"evaluations": "along"}}
# Settings that are younger than the first study, by their section, with the value that all runs before them had, with
# which they are not hashed.
YOUNGER: dict[str, dict[str, Any]] = {"algo": {"actor_hidden": None}, "compress": dict.fromkeys(BIT_SETTINGS, 8)}


def identity(settings: Settings, exclude: frozenset[str] = frozenset()) -> str:
    """Hash of the resolved settings that affect the result of a seed."""
    data = settings.model_dump(exclude=IDENTITY_EXCLUDED | exclude) | {"env_id": settings.env.id}
    if settings.env.kwargs:
        data["env_kwargs"] = settings.env.kwargs
    for section, names in FIRST_NAMES.items():
        if section in data:
            data[section] = {names.get(name, name): value for name, value in data[section].items()}
    for section, before in YOUNGER.items():
        if section in data:
            data[section] = {key: value for key, value in data[section].items() if value != before.get(key, UNSET)}
    return sha256(json.dumps(data, sort_keys=True).encode())


def with_names_of_now(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a record, whatever they were called when it was written."""
    renamed = dict(settings)
    for section, names in FIRST_NAMES.items():
        now = {old: new for new, old in names.items()}
        renamed[section] = {now.get(name, name): value for name, value in settings[section].items()}
    return renamed


def training_identity(settings: Settings) -> str:
    """Hash of the settings that affect the fp32 or QAT training a run needs."""
    trained = settings if settings.trains else settings.with_fp32()
    return identity(trained, NOT_TRAINING)


def label(job: Job) -> str:
    """The names of compression and protocol, with a short hash where any other setting differs from the defaults."""
    compress = job.settings.compress
    name = job.settings.label
    changes: dict[str, Any] = {
        "env": job.settings.env.model_copy(update={"kwargs": {}}),
        "protocol": job.settings.protocol,
    }
    if isinstance(compress, QuantizedSettings):  # its bits and its ratio stand in the name
        named = (*BIT_SETTINGS, "ratio") if isinstance(compress, PruneSettings) else BIT_SETTINGS
        update = {key: getattr(compress, key) for key in named}
        changes["compress"] = job.defaults.compress.model_copy(update=update)
    asked = identity(job.asked)
    defaults = identity(job.defaults.model_copy(update=changes))
    return name if asked == defaults else f"{name}~{asked[:LABEL_HASH_LENGTH]}"


def folder_name(env_id: str) -> str:
    """An environment's id as the name of a folder that every file system, shell and scp takes."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", env_id)
    name = re.sub(r"^[.-]|\.$", "_", name)
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}_{sha256(env_id.encode())[:6]}"
    return name
