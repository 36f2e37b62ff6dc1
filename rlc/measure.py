"""Measure finished runs on a quiet machine: python -m rlc.measure study=default

Return, inference time, memory and energy of every policy, fp32 and compressed by turns on one pinned thread.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock, Timeout
from rich.progress import track

from measure.machine import BUSY_PERCENT, load, machine, one_pinned_thread
from rlc.cli import configured, positional, run_command
from rlc.config.commands import parse_measure, shorter_than
from rlc.datafiles import CONF
from rlc.messages import counted, warn
from rlc.pipeline.measurement import add_energy, measure_group, no_energy
from rlc.pipeline.tracking import Tracker
from rlc.reporting import console
from rlc.reporting.study import chosen_runs
from rlc.runs.files import OUTPUTS
from rlc.runs.find import comparison_key
from rlc.runs.provenance import provenance
from rlc.runs.records import MeasuredEnergy, Measurement
from rlc.runs.stored import StoredRun
from trainers.errors import UserError


def measure(arguments: list[str]) -> None:
    """Measure the runs that the arguments choose and write measurement.json beside each result.json."""
    settings = parse_measure(configured(positional(arguments, "study"), CONF / "measure.yaml"))
    runs = _with_policies(chosen_runs(settings))
    short = shorter_than(settings, parse_measure(configured([], CONF / "measure.yaml")))
    if short:
        warn(f"{', '.join(short)}: less than the defaults measure, for a try; measurement.json says so")
    with _alone(), one_pinned_thread() as core:
        context = {"machine": machine() | {"pinned_core": core}, "load": _quiet(), "provenance": provenance()}
        context |= {"short": short} if short else {}
        groups = [list(group) for _, group in itertools.groupby(runs, key=comparison_key)]
        for group in track(groups, "return, time, memory"):
            for run, measurement in zip(group, measure_group(group, settings), strict=True):
                # Should the stage be stopped before energy, the rest is there, and the energy of before.
                energy = _energy_so_far(run)
                run.write_measurement(measurement.model_copy(update=context | {"energy": energy}))
        add_energy(groups, settings)
    for run in runs:
        tracker = Tracker(run, None if settings.wandb.mode == "as_trained" else settings.wandb.mode)
        tracker.measured(run.measurement() or Measurement())
        tracker.finish()
    console.show_measurements(runs)


def _energy_so_far(run: StoredRun) -> MeasuredEnergy:
    measurement = run.measurement()
    if measurement is None:
        return no_energy("not measured: the stage was stopped before")
    return measurement.energy


def _with_policies(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs that can be measured; says how many cannot. Raises UserError where none can."""
    measurable = [run for run in runs if not run.record_only()]
    missing = len(runs) - len(measurable)
    again = "the commands that made them make them again with overwrite=true"
    reason = f"{counted(missing, 'run')} came from a pack without the policy: {again}"
    if not measurable:
        raise UserError(reason)
    if missing:
        warn(f"left out, and their measurements left as they are: {reason}")
    return measurable


def _quiet() -> dict[str, float]:
    busy = load()
    if busy["busy_percent"] > BUSY_PERCENT:
        warn(f"the machine is busy ({busy['busy_percent']:.0f} % of its cores): trust ratios, not times")
    return busy


@contextmanager
def _alone() -> Iterator[None]:
    """Raises UserError where another measurement runs here."""
    lock = FileLock(OUTPUTS / ".measure.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another rlc.measure is running in this directory: wait for it") from None
    try:
        yield
    finally:
        lock.release()


if __name__ == "__main__":
    run_command(measure)
