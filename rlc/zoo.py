"""List the trained policies that come with rlc, or add to them: python -m rlc.zoo [add=<pack or folder of runs>]"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from compression.artifact import read_policy, write_files
from compression.files import CONTRACT_FILE, ONNX_FILE, TENSOR_FILE, write_atomic
from compression.runtime import OnnxPolicy
from measure.machine import machine
from measure.returns import evaluate
from measure.video import animation, choose_backend
from rlc.cli import given_path, only, run_command
from rlc.messages import warn
from rlc.packing.packs import PackedRun, read_pack, record_files, restored, shortened
from rlc.packing.zoo import CARD_FILE, FILM_FILE, PREFIX, ZOO, Card, given_policy, read_card, zoo_names
from rlc.reporting.screen import print_table
from rlc.runs.files import CONFIG_FILE
from rlc.runs.find import open_artifact
from rlc.runs.records import RunResult
from rlc.runs.stored import METRICS_FILE, StoredRun, evaluations, load_run, parse_metrics
from trainers.envs.make import env_factory, spec_of
from trainers.envs.names import task_name
from trainers.errors import UserError

EPISODES = 100
# Of the start states of the card; runs are scored, and policies chosen, on those of seed 0.
EVAL_SEED = 1


class Candidate(NamedTuple):
    """A finished fp32 run."""

    run: StoredRun
    result: RunResult
    metrics: str | None
    """metrics.csv"""
    source: str
    files: Callable[[], dict[str, bytes]]
    """Reads its artifact."""


def zoo(arguments: list[str]) -> None:
    """Show the zoo, after adding the best policies of the sources that are given.

    Raises UserError, before anything is written, for a source that holds no finished fp32 run or is damaged.
    """
    values = only(arguments, ("add",), required=())
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for source in filter(None, values.get("add", "").split(",")):
        for candidate in _candidates(source):
            groups[_name(candidate.run)].append(candidate)
    for name, candidates in sorted(groups.items()):
        _add(name, candidates)
    if groups:
        _film()
    _show()


def _name(run: StoredRun) -> str:
    return f"{run.settings.algo.name}-{task_name(run.settings.env.id)}".lower()


def _candidates(source: str) -> list[Candidate]:
    """The fp32 runs of a pack, or of all folders below one, that are worth more than doing nothing."""
    folder = given_path(source)
    found = _packed(folder, source) if record_files(folder) else _stored(folder, source)
    scored = [item for item in found if item.run.settings.is_fp32 and item.result.protocol == "ours"]
    if not scored:
        raise UserError(f"add={source}: holds no finished fp32 run; allowed: a pack, or a folder with runs in it")
    return [item for item in scored if item.result.return_mean > _reference(item.result)]


def _reference(result: RunResult) -> float:
    return max(result.random_return_mean, result.zero_return_mean)


def _packed(folder: Path, source: str) -> Iterable[Candidate]:
    def files(run: PackedRun) -> Callable[[], dict[str, bytes]]:
        return lambda: run.artifact_files(run.tensors())

    for run in read_pack(folder):
        if run.settings.trains:
            yield Candidate(run, run.result(), run.record["metrics"], source, files(run))


def _stored(folder: Path, source: str) -> Iterable[Candidate]:
    def files(path: Path) -> Callable[[], dict[str, bytes]]:
        return lambda: _read(open_artifact(path).folder)

    for config in sorted(folder.rglob(CONFIG_FILE)):
        run = load_run(config.parent)
        result = run.result()
        metrics = run.path / METRICS_FILE
        text = metrics.read_text() if metrics.exists() else None
        if result is not None:
            yield Candidate(run, result, text, source, files(run.path))


def _read(artifact: Path) -> dict[str, bytes]:
    return {name: (artifact / name).read_bytes() for name in (ONNX_FILE, TENSOR_FILE, CONTRACT_FILE)}


def _add(name: str, candidates: list[Candidate]) -> None:
    """Put the best candidate into the zoo, unless it has that one or a better one."""
    best = max(candidates, key=lambda item: item.result.return_mean)
    env_ids = {item.run.settings.env.id for item in candidates}
    if name in zoo_names():
        card = read_card(name)
        env_ids.add(card.env_id)
        if card.recorded_return_mean >= best.result.return_mean:
            return
    if len(env_ids) > 1:
        raise UserError(f"{name}: of several environments, {', '.join(sorted(env_ids))}: add one of them")
    files = best.files()
    contract = json.loads(files[CONTRACT_FILE])
    if restored(shortened(contract)) != contract:
        raise UserError(f"{best.run.path}: its contract has numbers that are no float32; export the run again")
    card = _card(best, files, len(candidates))
    # policy.onnx is left out, half of the bytes: it is made again of the others.
    kept = {
        TENSOR_FILE: files[TENSOR_FILE],
        CONTRACT_FILE: json.dumps(shortened(contract), separators=(",", ":")).encode(),
        CARD_FILE: (card.model_dump_json(indent=1) + "\n").encode(),
    }
    write_files(ZOO / name, kept)


def _film() -> None:
    """Write the films that are missing; says so where nothing renders here."""
    missing = [name for name in zoo_names() if not (ZOO / name / FILM_FILE).exists()]
    if not missing:
        return
    try:
        choose_backend(spec_of(read_card(missing[0]).env_id))
    except UserError as error:
        warn(f"{', '.join(missing)}: {error}")
        return
    for name in missing:
        print(f"filming {name}", flush=True)
        artifact = open_artifact(given_policy(f"{PREFIX}{name}"))
        film = animation(artifact.policy.spec, OnnxPolicy(artifact.folder / ONNX_FILE), EVAL_SEED)
        write_atomic(ZOO / name / FILM_FILE, film)


def _card(candidate: Candidate, files: dict[str, bytes], candidates: int) -> Card:
    """The card of a policy, played on start states of its own."""
    run = candidate.run
    result = candidate.result
    spec = read_policy(json.loads(files[CONTRACT_FILE]), files[TENSOR_FILE]).spec
    print(f"playing {EPISODES} episodes of {_name(run)}", flush=True)
    played = evaluate(OnnxPolicy(files[ONNX_FILE]), env_factory(spec), spec, episodes=EPISODES, seed=EVAL_SEED)
    return Card(
        env_id=run.settings.env.id,
        algo=run.settings.algo.name,
        seed=run.seed,
        total_steps=result.total_steps,
        return_mean=played.mean,
        return_std=played.std,
        episodes=EPISODES,
        eval_seed=EVAL_SEED,
        cpu=machine()["cpu_model"],
        recorded_return_mean=result.return_mean,
        candidates=candidates,
        random_return_mean=result.random_return_mean,
        zero_return_mean=result.zero_return_mean,
        source=candidate.source,
        git_commit=result.provenance.git_commit,
        train_seconds=result.train_seconds,
        settings=run.settings.model_dump(mode="json"),
        curve=evaluations(parse_metrics(candidate.metrics or "")),
    )


def _show() -> None:
    table = Table("policy", "environment", box=box.SIMPLE)
    for header in ("steps", "seed", "of runs", "return", "random", "zero", "weights KB"):
        table.add_column(header, justify="right")
    for name in zoo_names():
        card = read_card(name)
        table.add_row(
            f"zoo:{name}",
            card.env_id,
            f"{card.total_steps:,}",
            str(card.seed),
            str(card.candidates),
            f"{card.return_mean:.1f} +- {card.return_std:.1f}",
            f"{card.random_return_mean:.1f}",
            f"{card.zero_return_mean:.1f}",
            f"{(ZOO / name / TENSOR_FILE).stat().st_size / 1000:.1f}",
        )
    print_table(table)


if __name__ == "__main__":
    run_command(zoo)
