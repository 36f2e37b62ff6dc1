"""Learning curve of Stable-Baselines3's SAC at the settings of conf/algo/sac.yaml, for comparison.

Run by hand (needs `pip install stable-baselines3`):
    python tests/benchmarks/sb3_sac.py --env HalfCheetah-v4 --steps 100000 --seed 0 --out curve.csv
The CSV has the columns of our metrics.csv that matter here: global_step, eval/return_mean,
eval/return_std and charts/SPS (environment steps per second since the last row, evaluation excluded).
"""

import argparse
import csv
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback


class Curve(BaseCallback):
    """Evaluate the mean action every `period` steps on the same start states each time."""

    def __init__(self, env_id: str, out: Path, period: int, episodes: int) -> None:
        super().__init__()
        self.env, self.out, self.period, self.episodes = gym.make(env_id), out, period, episodes

    def _on_training_start(self) -> None:
        self.since = time.perf_counter()
        self._write(["global_step", "eval/return_mean", "eval/return_std", "charts/SPS"], "w")

    def _on_step(self) -> bool:
        if self.num_timesteps % self.period == 0:
            speed = self.period / (time.perf_counter() - self.since)
            returns = [self._episode(10**6 + k) for k in range(self.episodes)]
            self._write([self.num_timesteps, np.mean(returns), np.std(returns), round(speed, 1)], "a")
            self.since = time.perf_counter()
        return True

    def _episode(self, seed: int) -> float:
        observation, _ = self.env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = self.model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total, done = total + float(reward), terminated or truncated
        return total

    def _write(self, row: list[object], mode: str) -> None:
        with self.out.open(mode, newline="") as file:
            csv.writer(file).writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="HalfCheetah-v4")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = SAC(
        "MlpPolicy",
        gym.make(args.env),
        learning_rate=1e-3,
        ent_coef=0.2,
        learning_starts=10_000,
        batch_size=256,
        buffer_size=1_000_000,
        tau=0.005,
        gamma=0.99,
        policy_kwargs={"net_arch": [256, 256]},
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.steps, callback=Curve(args.env, args.out, args.steps // 20, episodes=10))


if __name__ == "__main__":
    main()
