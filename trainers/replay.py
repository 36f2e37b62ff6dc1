"""Replay memory of all seeds; every observation is stored once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainers.rollout import FloatArray, Step
from trainers.spec import Spec, Stream, numpy_stream


class Batch(NamedTuple):
    """Transitions [S, B, ...]. `discount` is gamma, or 0 where the episode terminated: never for a time limit."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor


class Replay:
    """A ring of the last `capacity` transitions per seed, sampled uniformly on the seed's own random stream.

    Row t holds the observation acted on, the action and what came of it; the next observation is row t + 1.
    Two exceptions: behind a termination the next observation is never used (discount 0), and at a truncation
    the true final observation lies in a side table. The ring has one row more than transitions, because the
    newest next observation already lies in it.
    """

    def __init__(
        self,
        spec: Spec,
        seeds: Sequence[int],
        num_envs: int,
        capacity: int,
        gamma: float,
        device: torch.device,
        reward_scale: float = 1.0,
    ) -> None:
        if capacity % num_envs:
            raise ValueError(f"capacity {capacity} is no multiple of num_envs {num_envs}")
        self.rows = capacity // num_envs + 1
        self.gamma, self.reward_scale = gamma, reward_scale
        shape = (len(seeds), self.rows, num_envs)
        self.obs = torch.empty((*shape, spec.obs_dim), device=device)
        self.action = torch.empty((*shape, spec.act_dim), device=device)
        self.reward = torch.empty(shape, device=device)
        self.discount = torch.empty(shape, device=device)
        self.final = FinalObservations(shape, spec.obs_dim, device)
        self.streams = [numpy_stream(Stream.REPLAY, seed) for seed in seeds]
        self.at = 0
        self.size = 0

    def start(self, obs: FloatArray) -> None:
        """Store the observations [S, E, obs_dim] on which the first actions are taken."""
        self.obs[:, self.at] = torch.from_numpy(obs)

    def add(self, action: FloatArray, step: Step) -> None:
        """Store what `action` [S, E, act_dim] on the newest observation led to."""
        self.action[:, self.at] = torch.from_numpy(action)
        self.reward[:, self.at] = torch.from_numpy(step.reward * np.float32(self.reward_scale))
        self.discount[:, self.at] = torch.from_numpy(np.float32(self.gamma) * ~step.terminated)
        self.final.replace(self.at, step.final_obs)
        self.at = (self.at + 1) % self.rows
        self.obs[:, self.at] = torch.from_numpy(step.next_obs)
        self.size = min(self.size + 1, self.rows - 1)

    def sample(self, batch_size: int) -> Batch:
        """`batch_size` transitions for each seed, with replacement."""
        seeds, rows, num_envs = self.reward.shape
        drawn = np.stack([g.integers(0, self.size * num_envs, batch_size) for g in self.streams])
        age, env = np.divmod(drawn, num_envs)
        row = (self.at - 1 - age) % rows
        base = np.arange(seeds)[:, None] * rows
        here = self._flat_index((base + row) * num_envs + env)
        after = self._flat_index((base + (row + 1) % rows) * num_envs + env)
        next_obs = self.final.overwrite(_gather(self.obs, after), here)

        def view(x: Tensor) -> Tensor:
            return x.view(seeds, batch_size, *x.shape[1:])

        return Batch(
            view(_gather(self.obs, here)),
            view(_gather(self.action, here)),
            view(self.reward.view(-1)[here]),
            view(self.discount.view(-1)[here]),
            view(next_obs),
        )

    def _flat_index(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(index.ravel()).to(self.obs.device)


def _gather(storage: Tensor, flat_index: Tensor) -> Tensor:
    return storage.flatten(0, 2).index_select(0, flat_index)


class FinalObservations:
    """True final observations of truncated episodes, addressed by the ring place of their transition."""

    def __init__(self, shape: tuple[int, int, int], obs_dim: int, device: torch.device) -> None:
        self.slot_of = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.table = torch.empty((1, obs_dim), device=device)
        self.free = [0]
        self.used: dict[tuple[int, int, int], int] = {}

    def replace(self, row: int, final_obs: dict[tuple[int, int], FloatArray]) -> None:
        """Forget what stood in ring row `row` and store the given observations, keyed by (seed, env)."""
        seeds, _, num_envs = self.slot_of.shape
        if self.used:
            for s in range(seeds):
                for e in range(num_envs):
                    self._forget((s, row, e))
        for (s, e), obs in final_obs.items():
            if not self.free:
                self._grow()
            slot = self.used[s, row, e] = self.free.pop()
            self.slot_of[s, row, e] = slot
            self.table[slot] = torch.from_numpy(obs)

    def overwrite(self, next_obs: Tensor, places: Tensor) -> Tensor:
        """Put the true final observation wherever the transition at flat `places` was truncated."""
        slot = self.slot_of.view(-1).index_select(0, places)
        final = self.table.index_select(0, slot.clamp(min=0))
        return torch.where((slot >= 0).unsqueeze(1), final, next_obs)

    def _forget(self, place: tuple[int, int, int]) -> None:
        slot = self.used.pop(place, None)
        if slot is not None:
            self.slot_of[place] = -1
            self.free.append(slot)

    def _grow(self) -> None:
        size = len(self.table)
        self.table = torch.cat([self.table, torch.empty_like(self.table)])
        self.free = list(range(size, 2 * size))
