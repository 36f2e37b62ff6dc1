"""Learning curve of Stable-Baselines3 (TRPO: sb3-contrib) at the settings of conf/algo/, for comparison.

Run by hand (needs `pip install stable-baselines3 sb3-contrib`):
    python tests/benchmarks/sb3_curve.py --algo ppo --env Hopper-v4 --steps 300000 --seed 0 --out curve.csv
The CSV has the columns of our metrics.csv that matter here: global_step, eval/return_mean,
eval/return_std and charts/SPS (environment steps per second since the last row, evaluation excluded).
curves.csv holds what was measured with it so far, ours beside theirs: deterministic return of 10 episodes.
What Stable-Baselines3 lacks stays out: advantages recomputed each epoch, scaled value targets (VecNormalize
scales rewards instead).
"""

import argparse
import csv
import math
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

PPO_LR, PPO_LR_DECAY_STEPS = 3e-4, 3_000_000


class Curve(BaseCallback):
    """Evaluate the mean action `count` times on the same start states each time."""

    def __init__(self, env_id: str, out: Path, period: int, episodes: int) -> None:
        super().__init__()
        self.env, self.out, self.period, self.episodes = gym.make(env_id), out, period, episodes

    def _on_training_start(self) -> None:
        self.since, self.since_step, self.next = time.perf_counter(), 0, self.period
        self._write(["global_step", "eval/return_mean", "eval/return_std", "charts/SPS"], "w")

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            speed = (self.num_timesteps - self.since_step) / (time.perf_counter() - self.since)
            returns = [self._episode(10**6 + k) for k in range(self.episodes)]
            self._write([self.num_timesteps, np.mean(returns), np.std(returns), round(speed, 1)], "a")
            self.since, self.since_step = time.perf_counter(), self.num_timesteps
            self.next += self.period
        return True

    def _episode(self, seed: int) -> float:
        normalizer = self.model.get_vec_normalize_env()
        observation, _ = self.env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            seen = observation if normalizer is None else normalizer.normalize_obs(observation)
            action, _ = self.model.predict(seen, deterministic=True)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total, done = total + float(reward), terminated or truncated
        return total

    def _write(self, row: list[object], mode: str) -> None:
        with self.out.open(mode, newline="") as file:
            csv.writer(file).writerow(row)


def on_policy(cls: Any, env_id: str, seed: int, steps: int, num_envs: int, **settings: Any) -> Any:
    env = VecNormalize(make_vec_env(env_id, num_envs, seed=seed))
    policy = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "log_std_init": -0.5}
    return cls("MlpPolicy", env, seed=seed, policy_kwargs=policy, gamma=0.99, gae_lambda=0.95, **settings)


def off_policy(cls: Any, env_id: str, seed: int, **settings: Any) -> Any:
    shared = {"batch_size": 256, "buffer_size": 1_000_000, "tau": 0.005, "gamma": 0.99}
    policy = {"net_arch": [256, 256]}
    return cls("MlpPolicy", gym.make(env_id), seed=seed, policy_kwargs=policy, **shared, **settings)


def build(algo: str, env_id: str, seed: int, steps: int) -> Any:
    if algo == "ppo":

        def lr(remaining: float) -> float:
            return PPO_LR * (1 - (1 - remaining) * steps / PPO_LR_DECAY_STEPS)

        envs = 8 if env_id.startswith("Hopper") else 64
        ppo = {"n_steps": 2048 // envs, "batch_size": 64, "vf_coef": 0.25, "target_kl": 0.02}
        return on_policy(PPO, env_id, seed, steps, envs, learning_rate=lr, **ppo)
    if algo == "trpo":
        cg = {"cg_max_steps": 10, "cg_damping": 0.1, "target_kl": 0.01, "n_critic_updates": 10}
        return on_policy(TRPO, env_id, seed, steps, 4, n_steps=256, batch_size=128, learning_rate=1e-3, **cg)
    if algo == "sac":
        return off_policy(SAC, env_id, seed, learning_rate=1e-3, ent_coef=0.2, learning_starts=10_000)
    rate = 1e-3 if algo == "ddpg" and env_id.startswith(("HalfCheetah", "Hopper")) else 3e-4
    size = math.prod(gym.make(env_id).action_space.shape or ())
    noise = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    cls = {"ddpg": DDPG, "td3": TD3}[algo]
    return off_policy(cls, env_id, seed, learning_rate=rate, learning_starts=25_000, action_noise=noise)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--algo", choices=["trpo", "ppo", "ddpg", "td3", "sac"], required=True)
    parser.add_argument("--env", default="HalfCheetah-v4")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = build(args.algo, args.env, args.seed, args.steps)
    model.learn(args.steps, callback=Curve(args.env, args.out, args.steps // args.evaluations, episodes=10))


if __name__ == "__main__":
    main()
