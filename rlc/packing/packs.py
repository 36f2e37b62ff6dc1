"""Packs: the finished runs of a study as a few files, for git and for other machines.

`<env id>/<algo>.jsonl.gz` has one line per run: settings, status, result, measurement, learning curve, and of a
training the contract of its policy. `<env id>/<algo>/<label>/seed<n>.safetensors` has the tensors of that policy.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import yaml

from compression.artifact import ArtifactError, read_policy, read_spec, remade_files
from compression.files import AGAIN, sha256
from rlc.pipeline import build
from rlc.runs.files import ARTIFACT, CONFIG_FILE, MEASUREMENT_FILE, RESULT_FILE, STATUS_FILE, parse_record
from rlc.runs.records import NOT_PACKED, Measurement, RunResult, RunStatus
from rlc.runs.stored import AGENT_FILE, METRICS_FILE, StoredRun, algorithm_directory, stored_settings
from trainers.errors import UserError
from trainers.policy import Policy

SCHEMA = 1
KEYS = {"schema", "label", "seed", "config", "status", "result", "measurement", "metrics", "contract", "tensors"}
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*")
# Of result.json: what differs where the same computation is done twice, and what is joined later.
CIRCUMSTANCES = re.compile(r"schema_version|provenance|lockstep_seeds|fp32_.*|.*_seconds|.*_reason")
Record = dict[str, Any]


class PackedRun(StoredRun):
    """A run in a pack, or on its way into one. Its path is where its directory belongs."""

    def __init__(self, record: Record, file: Path) -> None:
        """Raises KeyError, TypeError, ValueError or UserError for a record of another shape."""
        settings = stored_settings(record["config"])
        label = record["label"]
        seed = record["seed"]
        if not LABEL.fullmatch(label):
            raise ValueError(f"label {label!r} is none")
        super().__init__(
            algorithm_directory(settings) / label / f"seed{seed}", settings, seed, label, record["config"]["identity"]
        )
        self.record = record
        self.file = file
        self._check_shape()
        self._status = parse_record(RunStatus, record["status"])
        self._result = parse_record(RunResult, record["result"])
        measurement = record["measurement"]
        self._measurement = None if measurement is None else parse_record(Measurement, measurement)
        self._check_contents()

    def _check_shape(self) -> None:
        record = self.record
        optional = [record[key] or {} for key in ("measurement", "contract", "tensors")]
        objects = [record["status"], record["result"], *optional]
        if record.keys() != KEYS or not all(isinstance(value, dict) for value in objects):
            raise ValueError("has other keys or kinds of values")
        if not isinstance(record["metrics"], str | None):
            raise ValueError("metrics is no text")

    def _check_contents(self) -> None:
        record = self.record
        if self.settings.seed != [self.seed] or type(self.seed) is not int:
            raise ValueError(f"seed {self.seed!r} is not that of its settings")
        if self._status.state != "done" or not self._status.identity == self._result.identity == self.identity:
            raise ValueError("is not a finished run of its settings")
        if self.settings.trains != all(record[key] for key in ("contract", "tensors")):
            raise ValueError("lacks a part of its result")
        if self.settings.trains and record["tensors"]["file"] != f"{self.label}/seed{self.seed}.safetensors":
            raise ValueError(f"names {record['tensors']['file']!r} as its tensors")
        algorithm = algorithm_directory(self.settings)
        if (self.file.parent.name, self.file.name) != (algorithm.parent.name, f"{algorithm.name}.jsonl.gz"):
            raise ValueError(f"is of {self.settings.algo.name} in {self.settings.env.id}")

    def status(self) -> RunStatus:
        return self._status

    def result(self) -> RunResult:
        return self._result

    def measurement(self) -> Measurement | None:
        return self._measurement

    @property
    def tensor_file(self) -> Path:
        return self.file.parent / self.settings.algo.name / str(self.record["tensors"]["file"])

    def tensors(self) -> bytes:
        """The tensors of a training. Raises UserError where the file is missing or damaged."""
        try:
            content = self.tensor_file.read_bytes()
        except OSError as error:
            raise UserError(f"{self.tensor_file}: cannot be read: {error.strerror}{AGAIN}") from error
        if sha256(content) != self.record["tensors"]["sha256"]:
            raise UserError(f"{self.tensor_file}: is damaged: its hash is not the one in {self.file}{AGAIN}")
        return content

    def contract(self) -> Record:
        """policy.json of a training."""
        return restored(self.record["contract"])

    def artifact_files(self, content: bytes) -> dict[str, bytes]:
        """The artifact of a training, made again from its tensors. Raises UserError where that cannot be done."""
        try:
            return remade_files(self._policy(content), self.contract())
        except (ArtifactError, safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.file}: {self.name}: does not make its policy: {error}") from error

    def _policy(self, content: bytes) -> Policy:
        contract = self.record["contract"]
        if not self.settings.is_fp32:
            return read_policy(contract, content)
        algo = self.settings.algo
        compress = self.settings.compress
        agent = build.build_agent(algo, compress, read_spec(contract), [self.seed], torch.device("cpu"))
        agent.load_state(0, agent.state(0) | safetensors.torch.load(content))
        return agent.policy(0)

    def files(self) -> dict[str, bytes]:
        """What its directory holds, by name. Raises UserError where its policy cannot be made again."""
        record = self.record
        status = dict(record["status"])
        files = {}
        if self.settings.trains:
            content = self.tensors()
            files = {f"{ARTIFACT}/{name}": made for name, made in self.artifact_files(content).items()}
            if self.settings.is_fp32:
                files[AGENT_FILE] = content
        else:
            status["artifact"] = NOT_PACKED
        if record["metrics"] is not None:
            files[METRICS_FILE] = record["metrics"].encode()
        if record["measurement"] is not None:
            files[MEASUREMENT_FILE] = _json(record["measurement"])
        config = yaml.dump(record["config"], Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
        return files | {
            RESULT_FILE: _json(record["result"]),
            CONFIG_FILE: config.encode(),
            STATUS_FILE: _json(status),
        }

    def completed(self, other: "PackedRun") -> "PackedRun":
        """The run with what only the other's record of the same run has: measurement, return of the fp32 run."""
        record = dict(self.record)
        other_record = other.record
        if self.result().fp32_return_mean is None:
            fp32 = {key: value for key, value in other_record["result"].items() if key.startswith("fp32_")}
            record["result"] = record["result"] | fp32
        if record["measurement"] is None:
            record["measurement"] = other_record["measurement"]
        if record["tensors"] is not None and record["tensors"] == other_record["tensors"]:
            # Made again by another version of onnx, the contract may name another hash.
            record["contract"] = other_record["contract"]
        return PackedRun(record, self.file)


def with_numbers(contract: Record, convert: Callable[[Any], Any]) -> Record:
    """The contract with its lists of float32 numbers converted."""
    golden = {name: convert(contract["golden"][name]) for name in ("observations", "actions")}
    normalizer = {name: convert(values) for name, values in (contract["normalizer"] or {}).items()}
    return contract | {"golden": contract["golden"] | golden, "normalizer": normalizer or None}


def shortened(contract: Record) -> Record:
    """The contract with float32 numbers in as few digits as tell them apart, a third of the bytes."""
    return with_numbers(contract, lambda values: np.array(values, np.float32).astype(str).astype(float).tolist())


def restored(contract: Record) -> Record:
    """The contract that was shortened."""
    return with_numbers(contract, lambda values: np.array(values, np.float32).tolist())


def same_outcome(first: RunResult | None, second: RunResult | None) -> bool:
    """Whether two results of one seed agree in all but when, where and how fast they were computed."""
    return _outcome(first) == _outcome(second)


def _outcome(result: RunResult | None) -> str:
    fields = {} if result is None else result.fields()
    outcome = {name: value for name, value in fields.items() if not CIRCUMSTANCES.fullmatch(name)}
    return json.dumps(outcome, sort_keys=True)  # as text NaN equals NaN


def record_files(folder: Path) -> list[Path]:
    """The files of a pack that hold records."""
    return sorted(folder.glob("*/*.jsonl.gz"))


def read_pack(folder: Path, study: str | None = None) -> list[PackedRun]:
    """All runs of a pack, as runs of `study` where one is given. Tensors are read later.

    Raises UserError naming the file and the reason where a part of it is torn or foreign.
    """
    files = record_files(folder)
    if not files:
        raise UserError(f"{folder}: holds no pack: there is no <env id>/<algo>.jsonl.gz in it")
    runs = []
    for file in files:
        runs += _read_file(file, study)
    return runs


def record_text(file: Path) -> str:
    """The lines of a file of records. Raises UserError where it cannot be read or is torn."""
    try:
        return gzip.decompress(file.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{file}: is no whole gzip file: {error}{AGAIN}") from error


def _read_file(file: Path, study: str | None) -> list[PackedRun]:
    runs: dict[Path, PackedRun] = {}
    for number, line in enumerate(record_text(file).splitlines(), 1):
        try:
            run = _read_line(line, file, study)
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            raise UserError(f"{file}: line {number}: {_reason(error)}") from error
        if run.path in runs:
            raise UserError(f"{file}: line {number}: {run.label} seed {run.seed} stands in it twice")
        runs[run.path] = run
    if not runs:
        raise UserError(f"{file}: holds no run; pack the study again")
    return list(runs.values())


def _read_line(line: str, file: Path, study: str | None) -> PackedRun:
    record = json.loads(line)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else None
        raise ValueError(f"is of schema {schema}; this version of rlc reads schema {SCHEMA}")
    return PackedRun(record if study is None else of_study(record, study), file)


def _reason(error: Exception) -> str:
    return f"lacks {error}" if isinstance(error, KeyError) else str(error)


def of_study(record: Record, study: str) -> Record:
    """The record as that of a run of a study of another name."""
    config = record["config"]
    return record | {"config": config | {"settings": config["settings"] | {"study": study}}}


def _json(value: Record) -> bytes:
    return json.dumps(value, indent=1).encode()
