"""A replay buffer that a recorded update samples from by itself: all that a draw needs is on the device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.data.replay import Batch, ReplayBuffer
from trainers.envs.seed_envs import Step
from trainers.tensors import FloatArray, Snapshot, Upload


class DeviceReplayBuffer(ReplayBuffer):
    """As ReplayBuffer; what it draws comes from outside, and a transition is copied to the device in one piece."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        device = self.storage.device
        self.num_added_on_device = torch.zeros((), dtype=torch.int64, device=device)
        seeds, _, num_envs, columns = self.storage.shape
        self._upload = Upload((seeds, num_envs, columns), device)
        self._first_row = torch.arange(seeds, device=device).unsqueeze(1) * self.storage.shape[1]

    def add(self, action: FloatArray, step: Step) -> None:
        """As ReplayBuffer's."""
        obs_dim = self.columns[0]
        reward = step.reward * np.float32(self.reward_scale)
        discount = np.float32(self.gamma) * ~step.terminated
        row = self._upload(action, reward[..., None], discount[..., None], step.next_obs)
        self.storage[:, self.pos, :, obs_dim:] = row[..., :-obs_dim]
        self.final.replace(self.pos, step.final_obs)
        self.num_added += 1
        self.num_added_on_device += 1
        self.storage[:, self.pos, :, :obs_dim] = row[..., -obs_dim:]

    def sample_drawn(self, drawn: Tensor) -> Batch:
        """Transitions for random numbers [S, B], integers of 63 bits; what is read of the host may be recorded."""
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
