"""One job, resolved and checked."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rlc.config.decide import NO_COMPILER, as_asked, decide, has_compiler, worth_compiling
from rlc.config.settings import Settings, parse_settings
from rlc.messages import warn


@dataclass(frozen=True)
class Job:
    """The settings of one job, and the defaults of the same algorithm, environment and compression."""

    settings: Settings
    """As the job runs: decided where `auto` was asked for."""
    defaults: Settings
    """As they stand in conf/."""
    overrides: tuple[str, ...] = ()
    """What was asked for on the command line, of this job or of one that builds on it."""
    auto: tuple[str, ...] = ()
    """Keys of settings that were decided."""

    @property
    def asked(self) -> Settings:
        """The settings before anything was decided: what a run is found by."""
        return as_asked(self.settings, self.auto)

    def with_fp32(self) -> "Job":
        """The job that trains what this one compresses or is compared with."""
        # Decided anew: a job that derives trains nothing itself, so there was nothing to compile in it.
        settings, auto = decide(self.asked.with_fp32())
        return replace(self, settings=settings, defaults=self.defaults.with_fp32(), auto=auto)

    def with_seeds(self, seeds: list[int]) -> "Job":
        return replace(self, settings=self.settings.model_copy(update={"seed": seeds}))

    def to_json(self) -> str:
        """The job as a worker or a child process receives it: resolved and checked, nothing is left to compose."""
        parts = {
            "settings": self.settings.model_dump(),
            "defaults": self.defaults.model_dump(),
            "overrides": self.overrides,
            "auto": self.auto,
        }
        return json.dumps(parts)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """What `to_json` gave."""
        parts = json.loads(text)
        settings = parse_settings(parts["settings"])
        defaults = parse_settings(parts["defaults"])
        return cls(settings, defaults, tuple(parts["overrides"]), tuple(parts["auto"]))


def warn_without_compiler(jobs: Iterable[Job]) -> None:
    """Say it once, where trainings would be compiled but for the want of a compiler."""
    if not has_compiler() and any("compile" in job.auto and worth_compiling(job.settings) for job in jobs):
        warn(f"compile=auto: {NO_COMPILER}, which is not here: training without it, at about two thirds of the speed")
