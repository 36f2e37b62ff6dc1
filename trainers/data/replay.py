"""Replay buffer of all seeds; every observation is stored once."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainers.envs.seed_envs import Step
from trainers.envs.spec import EnvSpec
from trainers.rng import RngStream, numpy_stream
from trainers.tensors import FloatArray, Snapshot, copy_to_device_, maybe_pin


class Batch(NamedTuple):
    """Transitions [S, B, ...]. `discount` is gamma, or 0 where the episode terminated: never for a time limit."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor


class ReplayBuffer:
    """A ring of the last `capacity` transitions per seed, sampled uniformly on the seed's own random stream.

    Row t holds the observation acted on, the action and what came of it; the next observation is row t + 1.
    Two exceptions: behind a termination the next observation is never used (discount 0), and at a truncation
    the true final observation lies in a side table. The ring has one row more than transitions, because the
    newest next observation already lies in it.

    Args:
        spec: Shapes of observations and actions.
        seeds: One number per seed.
        num_envs: Environments per seed.
        capacity: Transitions per seed, a multiple of `num_envs`.
        gamma: Discount.
        device: Where the transitions are.
        reward_scale: Factor of rewards as they are stored.

    Raises:
        ValueError: Where the capacity is no multiple of `num_envs`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        num_envs: int,
        capacity: int,
        gamma: float,
        device: torch.device,
        reward_scale: float = 1.0,
    ) -> None:
        if capacity % num_envs:
            raise ValueError(f"capacity {capacity} is no multiple of num_envs {num_envs}")
        self.capacity = capacity // num_envs
        """In rows: a row holds the transition of each of the E environments."""
        self.gamma = gamma
        self.reward_scale = reward_scale
        shape = (len(seeds), self.capacity + 1, num_envs)
        self.columns = [spec.obs_dim, spec.act_dim, 1, 1]
        self.storage = torch.empty((*shape, sum(self.columns)), device=device)
        """Observation, action, reward and discount side by side: a batch is two gathers."""
        self.final = FinalObservations(shape, spec.obs_dim, device, self._final_slots(math.prod(shape)))
        self.streams = [numpy_stream(RngStream.REPLAY, seed) for seed in seeds]
        self.num_added = 0
        """Rows added so far; row number n lies at place n % (capacity + 1) of the ring."""

    @property
    def pos(self) -> int:
        """Ring place of the newest observation, on which the next action is taken."""
        return self.num_added % (self.capacity + 1)

    def start(self, obs: FloatArray) -> None:
        """Store the observations [S, E, obs_dim] on which the next actions are taken."""
        obs_dim = self.columns[0]
        copy_to_device_(self.storage[:, self.pos, :, :obs_dim], torch.from_numpy(obs))

    def add(self, action: FloatArray, step: Step) -> None:
        """Store what `action` [S, E, act_dim], in environment units, on the newest observation led to."""
        obs_dim = self.columns[0]
        result = np.concatenate([action, *self.reward_and_discount(step)], -1)
        copy_to_device_(self.storage[:, self.pos, :, obs_dim:], torch.from_numpy(result))
        self.final.replace(self.pos, step.final_obs)
        self.num_added += 1
        self.start(step.next_obs)

    def reward_and_discount(self, step: Step) -> tuple[FloatArray, FloatArray]:
        """What a batch learns from, [S, E, 1] each: scaled rewards, and gamma or 0 where an episode terminated."""
        reward = step.reward * np.float32(self.reward_scale)
        discount = np.float32(self.gamma) * ~step.terminated
        return reward[..., None], discount[..., None]

    def sample(self, batch_size: int) -> Batch:
        """`batch_size` transitions for each seed, uniformly and with replacement."""
        seeds, rows, num_envs, _ = self.storage.shape

        # places in the ring, counted back from the newest transition
        size = min(self.num_added, self.capacity)
        drawn = np.stack([stream.integers(0, size * num_envs, batch_size) for stream in self.streams])
        age, env = np.divmod(drawn, num_envs)
        row = (self.pos - 1 - age) % rows
        next_row = (row + 1) % rows

        # the same as flat indices over seeds, rows and environments
        first_row = np.arange(seeds)[:, None] * rows
        index = self._flat_index((first_row + row) * num_envs + env)
        next_index = self._flat_index((first_row + next_row) * num_envs + env)
        return self.gather(index, next_index)

    def gather(self, index: Tensor, next_index: Tensor) -> Batch:
        """Transitions by their flat places in the ring and those one row later, [S * B] each."""
        obs_dim = self.columns[0]
        seeds = len(self.storage)
        flat = self.storage.flatten(0, 2)
        next_obs = self.final.overwrite(flat.index_select(0, next_index)[:, :obs_dim], index)
        transitions = flat.index_select(0, index).view(seeds, -1, sum(self.columns))
        obs, action, reward, discount = torch.split(transitions, self.columns, -1)
        return Batch(obs, action, reward.squeeze(-1), discount.squeeze(-1), next_obs.view(seeds, -1, obs_dim))

    def rows(self, i: int, first: int, last: int) -> FloatArray:
        """Rows number first to last - 1 of seed number i, [rows, E, obs_dim + act_dim + 2]."""
        packed: FloatArray = self.storage[i, self._places(first, last)].cpu().numpy()
        return packed

    def put_rows(self, i: int, first: int, packed: FloatArray) -> None:
        """Put back what `rows` gave, beginning with row number `first`."""
        self.storage[i, self._places(first, first + len(packed))] = torch.from_numpy(packed).to(self.storage.device)

    def snapshot(self, i: int) -> Snapshot:
        """All of seed number i but its rows."""
        metadata = {"added": self.num_added, "stream": self.streams[i].bit_generator.state}
        return Snapshot(self.final.state(i), metadata)

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave; the rows follow by `put_rows`."""
        self.num_added = snapshot.metadata["added"]
        self.streams[i].bit_generator.state = snapshot.metadata["stream"]
        self.final.load_state(i, snapshot.tensors)

    def _final_slots(self, transitions: int) -> int:  # noqa: ARG002 (of subclasses)
        """How many final observations there is room for at first, beside so many transitions."""
        return 1

    def _places(self, first: int, last: int) -> Tensor:
        return torch.arange(first, last, device=self.storage.device) % (self.capacity + 1)

    def _flat_index(self, index: np.ndarray) -> Tensor:
        flat_index = torch.from_numpy(index.ravel())
        return maybe_pin(flat_index, self.storage.device).to(self.storage.device, non_blocking=True)


class FinalObservations:
    """True final observations of truncated episodes, addressed by the ring place of their transition."""

    def __init__(self, shape: tuple[int, int, int], obs_dim: int, device: torch.device, slots: int = 1) -> None:
        self.slot_of = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.table = torch.empty((slots, obs_dim), device=device)
        self.free = list(range(slots))
        self.used: dict[tuple[int, int, int], int] = {}

    def replace(self, row: int, final_obs: dict[tuple[int, int], FloatArray]) -> None:
        """Forget what stood in ring row `row` and store the given observations, keyed by (seed, env)."""
        seeds, _, num_envs = self.slot_of.shape
        if self.used:
            for s in range(seeds):
                for e in range(num_envs):
                    self._forget((s, row, e))
        for (s, e), obs in final_obs.items():
            self._store((s, row, e), torch.from_numpy(obs))

    def overwrite(self, next_obs: Tensor, places: Tensor) -> Tensor:
        """Put the true final observation wherever the transition at flat `places` was truncated."""
        slot = self.slot_of.view(-1).index_select(0, places)
        final = self.table.index_select(0, slot.clamp(min=0))
        return torch.where((slot >= 0).unsqueeze(1), final, next_obs)

    def state(self, i: int) -> dict[str, Tensor]:
        """Places (ring row, env) [n, 2] and observations [n, obs_dim] of seed number i."""
        places: list[tuple[int, int]] = []
        slots: list[int] = []
        for (s, row, env), slot in self.used.items():
            if s == i:
                places.append((row, env))
                slots.append(slot)
        return {
            "final_places": torch.tensor(places, dtype=torch.int64).view(-1, 2),
            "final_obs": self.table[slots].cpu(),
        }

    def load_state(self, i: int, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave, into an empty table."""
        for (row, env), obs in zip(state["final_places"].tolist(), state["final_obs"], strict=True):
            self._store((i, row, env), obs)

    def _store(self, key: tuple[int, int, int], obs: Tensor) -> None:
        if not self.free:
            self._grow()
        slot = self.free.pop()
        self.used[key] = slot
        self.slot_of[key] = slot
        copy_to_device_(self.table[slot], obs)

    def _forget(self, key: tuple[int, int, int]) -> None:
        slot = self.used.pop(key, None)
        if slot is not None:
            self.slot_of[key] = -1
            self.free.append(slot)

    def _grow(self) -> None:
        size = len(self.table)
        self.table = torch.cat([self.table, torch.empty_like(self.table)])
        self.free = list(range(size, 2 * size))
