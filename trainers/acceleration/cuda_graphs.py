"""Updates recorded once and played again: on a GPU as CUDA graphs, without the host's work for each small kernel."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.acceleration.compiled import tensors_of
from trainers.actor_critic import ActorCritic, NoiseBuffer
from trainers.cuda import cuda_graph
from trainers.data.device_replay import DeviceReplayBuffer
from trainers.data.replay import Batch
from trainers.rng import RngStream, torch_stream
from trainers.tensors import Snapshot

Metrics = dict[str, Tensor]
# Calls before a recording: libraries set themselves up in the first ones.
WARM_UP = 3
# Updates whose random numbers are drawn at once.
BLOCK = 32


class UpdateDraws:
    """The random numbers of updates, drawn on the device, for many updates at once.

    Each seed has a generator of its own: drawn for one update at a time, the host would take longer to ask for the
    numbers of ten seeds than the GPU takes for the update.

    Args:
        seeds: One number per seed.
        batch_size: Transitions per update and seed.
        noise_draws: How many times an update draws normal noise of the shape of its actions.
        act_dim: Width of an action.
        device: Where the numbers are drawn.
    """

    def __init__(
        self, seeds: Sequence[int], batch_size: int, noise_draws: int, act_dim: int, device: torch.device
    ) -> None:
        self.generators = [torch_stream(RngStream.UPDATE, seed, device) for seed in seeds]
        self.block_states = [generator.get_state() for generator in self.generators]
        """The generators' states before the block; where that is used up, before the next one."""
        size = (len(seeds), BLOCK, batch_size)
        self.places_block = torch.empty(size, dtype=torch.int64, device=device)
        self.noise_block = torch.empty((*size[:2], noise_draws, batch_size, act_dim), device=device)
        self.used = BLOCK
        """How many updates the block has served."""
        self.used_on_device = torch.zeros(1, dtype=torch.int64, device=device)

    def advance(self) -> None:
        """Make ready for one `read`."""
        if self.used == BLOCK:
            for i in range(len(self.generators)):
                self._draw_block(i)
            self.used_on_device.zero_()
            self.used = 0
        self.used += 1
        if self.used == BLOCK:
            self.block_states = [generator.get_state() for generator in self.generators]

    def read(self) -> tuple[Tensor, list[Tensor]]:
        """The numbers of an update. Nothing here depends on values of the host.

        Returns:
            Integers of 63 bits [S, B], and for each of its draws standard normal noise [S, B, act_dim].
        """
        places = self.places_block.index_select(1, self.used_on_device).squeeze(1)
        noise = self.noise_block.index_select(1, self.used_on_device).squeeze(1)
        self.used_on_device += 1
        return places, list(noise.unbind(1))

    def _draw_block(self, i: int) -> None:
        self.places_block[i].random_(generator=self.generators[i])
        self.noise_block[i].normal_(generator=self.generators[i])

    def snapshot(self, i: int) -> Snapshot:
        """What seed number i goes on from."""
        return Snapshot({"block_state": self.block_states[i]}, {"used": self.used})

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave. All seeds must come from the same number of updates."""
        self.block_states[i] = snapshot.tensors["block_state"]
        self.generators[i].set_state(self.block_states[i])
        self.used = snapshot.metadata["used"]
        self.used_on_device.fill_(self.used)
        if self.used < BLOCK:
            self._draw_block(i)


class CudaGraphUpdate:
    """Sampling and `update` of an off-policy agent, from one recording for each kind of update.

    Args:
        agent: The agent, whose `update_period` kinds of update do the same things each time.
        replay: Where batches come from.
        batch_size: Transitions per update and seed.
        record: Makes a function that plays what the given one did.
    """

    def __init__(
        self,
        agent: ActorCritic,
        replay: DeviceReplayBuffer,
        batch_size: int,
        *,
        record: Callable[[Callable[[], Metrics]], Callable[[], Metrics]] = cuda_graph,
    ) -> None:
        self.agent = agent
        self.replay = replay
        self.record = record
        self.draws = UpdateDraws(agent.seeds, batch_size, agent.NOISE_DRAWS, agent.spec.act_dim, agent.device)
        self.recordings: dict[tuple[int, int], Callable[[], Metrics]] = {}
        """By kind of update, and by the address of what the replay buffer moves where it grows."""

    def __call__(self) -> Metrics:
        """Sample and update; the metrics [S] are in the same tensors each time."""
        number = self.agent.updates + 1
        key = (number % self.agent.update_period, self.replay.final.table.data_ptr())
        self.draws.advance()
        if key not in self.recordings:
            self.recordings = {other: play for other, play in self.recordings.items() if other[1] == key[1]}
            self.recordings[key] = self._record()
        metrics = self.recordings[key]()
        # A graph leaves the host's count alone.
        self.agent.updates = number
        return metrics

    def _record(self) -> Callable[[], Metrics]:
        """A recording of the next update. All tensors of the agent are as before."""

        def step() -> Metrics:
            places, noise = self.draws.read()
            return self._update(self.replay.sample_drawn(places), noise)

        tensors = [*tensors_of(self.agent), self.draws.used_on_device]
        before = [tensor.clone() for tensor in tensors]
        updates = self.agent.updates
        for _ in range(WARM_UP):
            self.agent.updates = updates
            self._on_side_stream(step)
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        self.agent.updates = updates
        return self.record(step)

    def _update(self, batch: Batch, noise: Sequence[Tensor]) -> Metrics:
        """The agent's update of a batch, with the noise that it draws."""
        self.agent.noise_buffer = NoiseBuffer(noise)
        metrics: Metrics = self.agent.update(batch)  # type: ignore[attr-defined]
        self.agent.noise_buffer = None
        return metrics

    def _on_side_stream(self, function: Callable[[], Metrics]) -> None:
        """Call a function on a stream of its own, as recording asks of calls before it."""
        if self.agent.device.type != "cuda":
            function()
            return
        current = torch.cuda.current_stream()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(current)
        with torch.cuda.stream(side_stream):
            function()
        current.wait_stream(side_stream)
