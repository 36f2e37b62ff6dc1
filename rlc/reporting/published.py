"""Published numbers, from rlc/data: those of arXiv 2407.04803, and the best fp32 returns that we know of."""

from rlc.datafiles import read
from rlc.reporting.study import Task

# The version of the paper's environments. Its numbers stand beside ours of the same version only.
VERSION = "v4"
KEEPS = 0.9
"""Share of the baseline's return that a pruned policy must keep, by the paper's rule."""
METHODS = ("baseline", "ptdq", "ptsq", "qat")
RATIOS = tuple(round(0.05 * k, 2) for k in range(1, 15))


def quantized(task: Task, method: str) -> float | None:
    """Return in Table 1; `method` is baseline, ptdq, ptsq or qat."""
    row = _row("paper/table1.csv", task)
    return None if row is None else float(row[method])


def listed_ratio(task: Task, norm: int) -> float | None:
    """Ratio of L1 or L2 in Table 2."""
    row = _row("paper/table2.csv", task)
    return None if row is None else float(row[f"l{norm}_ratio"])


def listed_choice(task: Task) -> str | None:
    """Norm and ratio in Table 3."""
    rows = {row["env"]: row for row in read("paper/table3.csv")}
    return rows[task.env].get(task.algo) if of_the_paper(task) and task.env in rows else None


def pruning_returns(task: Task, norm: int) -> dict[float, float]:
    """Return by ratio in the files behind Figures 2 and 3, the baseline at 0; empty where they are not the paper's."""
    if not of_the_paper(task) or (task.algo, task.env) == ("ppo", "HalfCheetah"):
        return {}
    rows = (row for row in read("paper/figures2_3_pruning.csv") if (row["algo"], row["env"]) == (task.algo, task.env))
    return {float(row["ratio"]): float(row["return_mean"]) for row in rows if row["norm"] == f"l{norm}"}


def best_fp32(task: Task) -> tuple[float, str] | None:
    """Best published return of an fp32 policy after one million steps, and the version it was reached in."""
    row = _row("published_fp32.csv", task)
    return None if row is None else (float(row["return_mean"]), row["env_version"])


def of_the_paper(task: Task) -> bool:
    """Whether the paper's numbers may stand beside a task: it is of the same version of the environment."""
    return task.env_id == f"{task.env}-{VERSION}"


def _row(name: str, task: Task) -> dict[str, str] | None:
    rows = (row for row in read(name) if (row["algo"], row["env"]) == (task.algo, task.env))
    return next(rows, None) if of_the_paper(task) else None
