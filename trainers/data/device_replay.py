"""A replay buffer that a recorded update samples from by itself: all that a draw needs is on the device."""

from typing import Any

import torch
from torch import Tensor

from trainers.cuda import Upload
from trainers.data.replay import Batch, ReplayBuffer
from trainers.envs.seed_envs import Step
from trainers.tensors import FloatArray, Snapshot

# Room for the final observations of truncated episodes of this many steps: to grow the table is to record anew.
EPISODE_STEPS = 500


class DeviceReplayBuffer(ReplayBuffer):
    """As ReplayBuffer; its random numbers come from outside, and a transition goes to the device in one piece."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        seeds, rows, num_envs, columns = self.storage.shape
        device = self.storage.device
        self.num_added_on_device = torch.zeros((), dtype=torch.int64, device=device)
        self._first_row = torch.arange(seeds, device=device).unsqueeze(1) * rows
        self._upload = Upload((seeds, num_envs, columns), device, self._store)

    def add(self, action: FloatArray, step: Step) -> None:
        """As ReplayBuffer's."""
        self.final.replace(self.pos, step.final_obs)
        self._upload(action, *self.reward_and_discount(step), step.next_obs)
        self.num_added += 1

    def _final_slots(self, transitions: int) -> int:
        return -(-transitions // EPISODE_STEPS)

    def _store(self, row: Tensor) -> None:
        """Store action, reward, discount and next observation [S, E, ...]."""
        obs_dim = self.columns[0]
        rows = self.storage.shape[1]
        pos = self.num_added_on_device.view(1) % rows
        self.storage[..., obs_dim:].index_copy_(1, pos, row[..., :-obs_dim].unsqueeze(1))
        self.storage[..., :obs_dim].index_copy_(1, (pos + 1) % rows, row[..., -obs_dim:].unsqueeze(1))
        self.num_added_on_device += 1

    def sample_drawn(self, drawn: Tensor) -> Batch:
        """Transitions for random numbers [S, B], integers of 63 bits. Nothing here depends on values of the host."""
        _, rows, num_envs, _ = self.storage.shape
        size = self.num_added_on_device.clamp(max=self.capacity)
        # The remainder favours no transition by more than 1 in 10^12.
        place = drawn % (size * num_envs)
        age = place // num_envs
        env = place % num_envs
        row = (self.num_added_on_device - 1 - age) % rows
        next_row = (row + 1) % rows
        index = (self._first_row + row) * num_envs + env
        next_index = (self._first_row + next_row) * num_envs + env
        return self.gather(index.flatten(), next_index.flatten())

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """As ReplayBuffer's."""
        super().restore(i, snapshot)
        self.num_added_on_device.fill_(self.num_added)
