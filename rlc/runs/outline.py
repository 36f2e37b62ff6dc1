"""What rlc.status shows of a run, small enough to be kept in the index of its study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlc.runs.files import RESULT_FILE, STATUS_FILE, is_finished, read_record
from rlc.runs.records import RunResult, RunStatus


@dataclass(frozen=True)
class Who:
    """Which run it is, by its settings."""

    algo: str
    env_id: str
    label: str
    words: str
    """The label as people read it."""
    seed: int
    identity: str


@dataclass(frozen=True)
class Outline:
    """A run as its files describe it."""

    path: Path
    who: Who
    record: RunStatus | None
    """Its status; None where it was planned and not begun."""
    whole: bool
    """Whether it is finished: status, result and artifact are all there, of these settings, and undamaged."""
    return_mean: float | None
    prints: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.who.algo} {self.who.env_id} {self.who.label} seed {self.who.seed}"

    def status(self) -> RunStatus | None:
        return self.record

    def finished(self) -> bool:
        return self.whole

    def fingerprints(self) -> dict[str, str]:
        """What no other seed may share, by name."""
        return self.prints

    def fields(self) -> dict[str, Any]:
        """As JSON has it; the path is left out."""
        record = None if self.record is None else self.record.fields()
        rest = {"whole": self.whole, "return_mean": self.return_mean, "prints": self.prints}
        return {"who": vars(self.who), "record": record, **rest}


def read_outline(path: Path, who: Who) -> Outline:
    """The records in a directory as they stand there. Raises UserError for records of a newer schema."""
    status = read_record(RunStatus, path / STATUS_FILE)
    result = read_record(RunResult, path / RESULT_FILE)
    whole = is_finished(path, who.identity, status, result)
    if result is None:
        return Outline(path, who, status, whole, None, {})
    return Outline(path, who, status, whole, result.return_mean, result.fingerprints)


def outline_from(path: Path, fields: dict[str, Any]) -> Outline:
    """What `Outline.fields` made, of a record that was checked when it was read."""
    record = None if fields["record"] is None else RunStatus.model_construct(**fields["record"])
    return Outline(path, Who(**fields["who"]), record, fields["whole"], fields["return_mean"], fields["prints"])
