"""Learning curves of runs and of Stable-Baselines3 in one picture.

python tests/benchmarks/plot_curves.py picture.png "fp32=<run>/metrics.csv" "Stable-Baselines3=curve.csv" ...
"""

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt

LINES = ("-", "--", ":", "-.")


def main() -> None:
    picture, *curves = sys.argv[1:]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for style, curve in zip(LINES, curves, strict=False):
        name, path = curve.split("=", 1)
        rows = [row for row in csv.DictReader(Path(path).read_text().splitlines()) if row["eval/return_mean"]]
        steps = [int(row["global_step"]) / 1000 for row in rows]
        mean, std = ([float(row[f"eval/return_{part}"]) for row in rows] for part in ("mean", "std"))
        (line,) = axes.plot(steps, mean, style, label=name)
        low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="environment steps (thousands)", ylabel="return of 10 episodes, mean and std")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main()
