"""Where the runs of a study came from: machines, code, dates and the time that their training took."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rlc.reporting.tables import DASH, Note, ReportTable
from rlc.runs.stored import StoredRun


def machine_of(run: StoredRun) -> str:
    """The machine that a run was made on, as far as its files say: host, processor and cores."""
    made = run.finished_result().provenance
    status = run.status()
    host = status.host if status else "unknown host"
    return f"{host}: {made.cpu}, {made.cores or 'unknown number of'} cores" + "".join(f", {gpu}" for gpu in made.gpus)


def commit_of(run: StoredRun) -> str:
    """The code that a run was made by."""
    made = run.finished_result().provenance
    commit = (made.git_commit or "unknown")[:7]
    return f"{commit} with changes" if made.git_dirty else commit


def date_of(run: StoredRun) -> str:
    """The day, in UTC, on which a run last was at work."""
    status = run.status()
    return status.heartbeat[:10] if status else ""


def span(days: Iterable[str]) -> str:
    """The first and the last of some days."""
    known = sorted(filter(None, set(days)))
    return " to ".join(dict.fromkeys(known[:1] + known[-1:])) or "unknown days"


def core_hours(runs: Iterable[StoredRun]) -> float:
    """Processor time of trainings, a seed of a pack counted as its share; runs that did not record it add nothing."""
    seconds = 0.0
    for run in runs:
        result = run.finished_result()
        seconds += (result.train_cpu_seconds or 0.0) / (result.lockstep_seeds or 1)
    return seconds / 3600


def provenance(runs: Sequence[StoredRun]) -> str:
    """Which commits the runs were made by, and how many each."""
    commits = Counter(commit_of(run) for run in runs)
    listed = ", ".join(f"{commit} ({count})" for commit, count in commits.most_common())
    return f"made by {'commit' if len(commits) == 1 else 'several commits, which may differ:'} {listed}"


def machines(runs: Sequence[StoredRun]) -> ReportTable:
    """Which runs came from which machine."""
    grouped: dict[str, list[StoredRun]] = defaultdict(list)
    for run in runs:
        grouped[machine_of(run)].append(run)
    rows = []
    for name, own in sorted(grouped.items()):
        tasks = sorted({f"{run.settings.algo.name} {run.settings.env.id}" for run in own})
        trained = core_hours(own)
        rows.append(
            [
                name,
                str(len(own)),
                ", ".join(f"{task} (seeds {_seeds(own, task)})" for task in tasks),
                span(date_of(run) for run in own),
                ", ".join(sorted({commit_of(run) for run in own})),
                f"{trained:.2f}" if trained else DASH,
            ]
        )
    headers = ["machine", "runs", "of", "days", "commits", "core-hours"]
    notes = [
        Note("host, processor and cores, as each run recorded them.", ("machine",)),
        Note("processor time of the trainings alone.", ("core-hours",)),
    ]
    return ReportTable("machines", "Where the runs came from", headers, rows, notes)


def training_costs(runs: Sequence[StoredRun]) -> ReportTable:
    """Processor time of the trainings by task and method, as the runs recorded it."""
    grouped: dict[tuple[str, str, str, int], list[StoredRun]] = defaultdict(list)
    for run in runs:
        settings = run.settings
        if settings.trains and settings.protocol == "ours" and core_hours([run]):
            key = settings.algo.name, settings.env.id, settings.compress.label, settings.total_steps
            grouped[key].append(run)
    rows = []
    for (algo, env_id, label, steps), own in sorted(grouped.items()):
        packs = sorted({run.finished_result().lockstep_seeds or 1 for run in own})
        hours = core_hours(own)
        rate = steps * len(own) / (3600 * hours)
        together = " / ".join(str(count) for count in packs)
        rows.append([algo, env_id, label, f"{steps:,}", str(len(own)), together, f"{hours:.2f}", f"{rate:.0f}"])
    headers = ["algorithm", "environment", "policy", "steps", "seeds", "in lockstep", "core-hours", "steps/core-s"]
    notes = [
        Note("of all seeds together, evaluations along the training included.", ("core-hours",)),
        Note("environment steps of a seed in a second of processor time.", ("steps/core-s",)),
    ]
    return ReportTable("training", "What the trainings cost", headers, rows, notes, keys=3)


def run_list(runs: Sequence[StoredRun]) -> ReportTable:
    """Every run with its return and where it came from."""
    rows = []
    for run in runs:
        result = run.finished_result()
        score = f"{result.return_mean:.1f} +- {result.return_std:.1f}"
        rows.append([run.name, score, machine_of(run).partition(":")[0], date_of(run), commit_of(run)])
    headers = ["run", "return", "host", "day", "commit"]
    note = Note("mean +- standard deviation over the episodes.", ("return",))
    return ReportTable("runs", "Runs", headers, rows, [note])


def _seeds(runs: Sequence[StoredRun], task: str) -> str:
    """The seeds of a task in short: 0-4, 7."""
    own = sorted({run.seed for run in runs if f"{run.settings.algo.name} {run.settings.env.id}" == task})
    spans: list[list[int]] = []
    for seed in own:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in spans)
