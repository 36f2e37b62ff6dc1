"""Report on a training while it lasts: metrics.csv, W&B, heartbeats, progress."""

import itertools
import time
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from compression.runtime import OnnxPolicy
from rlc.config.settings import Settings
from rlc.pipeline.evaluation import evaluate_policy
from rlc.pipeline.progress import TrainingProgress
from rlc.pipeline.tracking import Tracker
from rlc.runs.run import MetricsFile, Run
from rlc.runs.stored import EVALUATION, METRICS_FILE
from trainers.actor_critic import ActorCritic
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.envs.workers import SubprocSeedEnvs

METRIC_ROWS = 200
COLUMNS = ("global_step", "charts/episodic_return", "charts/episodic_length", "charts/SPS")
EVALUATION_COLUMNS = (EVALUATION, "eval/return_std")


class TrainingMonitor:
    """Turns what the loop yields into metrics.csv, W&B, heartbeats and progress."""

    def __init__(
        self,
        runs: Sequence[Run],
        trackers: Sequence[Tracker],
        agent: ActorCritic,
        envs: SyncSeedEnvs | SubprocSeedEnvs,
        settings: Settings,
        step: int,
    ) -> None:
        """`step`: where the training begins, or goes on."""
        self.runs = runs
        self.trackers = trackers
        self.agent = agent
        self.envs = envs
        self.settings = settings
        total = settings.total_steps
        columns = [*COLUMNS, *agent.METRICS, *EVALUATION_COLUMNS]
        self.files = [MetricsFile(run.path / METRICS_FILE, columns, step) for run in runs]
        self.next_row = Schedule(total, METRIC_ROWS)
        self.next_evaluation = Schedule(total, settings.eval.evaluations)
        for schedule in (self.next_row, self.next_evaluation):
            schedule.due(step)
        seeds = ",".join(str(run.seed) for run in runs)
        title = f"{settings.algo.name} {settings.env.id} {runs[0].label} seed {seeds}"
        self.progress = TrainingProgress(title, total, step)
        self.last_returns: list[float | None] = [None] * len(runs)
        self.since = time.monotonic()
        self.since_step = step

    def report(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Write what is due after `step` environment steps of each seed. `metrics`: by name, [S]."""
        row_due = self.next_row.due(step)
        evaluation_due = self.next_evaluation.due(step) and bool(metrics)
        if row_due or evaluation_due:
            self._write_rows(step, metrics, evaluation_due)
        for run in self.runs:
            run.heartbeat(step)
        self.progress.update(step, self._mean_return())

    def _mean_return(self) -> float | None:
        """Mean over the seeds of their last return, None before there is one."""
        known = [value for value in self.last_returns if value is not None]
        return float(np.mean(known)) if known else None

    def _write_rows(self, step: int, metrics: dict[str, Tensor], evaluate: bool) -> None:
        speed = (step - self.since_step) / (time.monotonic() - self.since)
        rows: list[dict[str, float]] = [{"global_step": step, "charts/SPS": round(speed, 1)} for _ in self.runs]
        for name, tensor in metrics.items():
            for row, value in zip(rows, tensor.tolist(), strict=True):
                row[name] = value
        for i, row in enumerate(rows):
            row |= self._episodes(i)
            if evaluate:
                row |= self._evaluate(i, step)
            self.files[i].write(row)
            self.trackers[i].log(row)
        self.since = time.monotonic()
        self.since_step = step

    def close(self) -> None:
        """Close metrics.csv of every run."""
        for file in self.files:
            file.close()

    def _episodes(self, i: int) -> dict[str, float]:
        """Means over the episodes of seed number i that ended since the last row."""
        episodes = self.envs.pop_episodes(i)
        if not episodes:
            return {}
        self.last_returns[i] = episodes[-1].episodic_return
        returns = [episode.episodic_return for episode in episodes]
        lengths = [episode.length for episode in episodes]
        return {
            "charts/episodic_return": float(np.mean(returns)),
            "charts/episodic_length": float(np.mean(lengths)),
        }

    def _evaluate(self, i: int, step: int) -> dict[str, float]:
        """Returns of the policy of seed number i as it would be deployed now."""
        act = OnnxPolicy.from_policy(self.agent.policy(i))
        returns = evaluate_policy(act, self.runs[i], self.settings.eval)
        self.last_returns[i] = returns.mean
        self.runs[i].log(f"step {step}: evaluation return {returns.mean:.2f} +- {returns.std:.2f}")
        return {EVALUATION: returns.mean, "eval/return_std": returns.std}


class Schedule:
    """`count` marks, evenly spread over `total` steps, the last one at the end."""

    def __init__(self, total: int, count: int) -> None:
        self._marks = iter([round(total * k / count) for k in range(1, count + 1)])
        self._next = next(self._marks, None)

    def due(self, step: int) -> bool:
        """Whether a mark lies behind that was still ahead at the last call."""
        if self._next is None or step < self._next:
            return False
        self._next = next(itertools.dropwhile(lambda mark: mark <= step, self._marks), None)
        return True
