"""Updates recorded once and played again: on a GPU as CUDA graphs, without the host's work for each small kernel."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.actor_critic import NoiseBuffer
from trainers.data.replay import Batch
from trainers.loops import OffPolicyAgent

Metrics = dict[str, Tensor]
# Updates of a kind before it is recorded: libraries set themselves up in the first ones.
WARM_UP = 3


class Recording(NamedTuple):
    """A recorded update: the inputs that it reads, and the function that plays it."""

    batch: Batch
    noise_buffer: NoiseBuffer
    play: Callable[[], Metrics]


def cuda_graph(function: Callable[[], Metrics]) -> Callable[[], Metrics]:
    """`function` as a graph, which leaves its results in the same tensors each time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metrics = function()

    def play() -> Metrics:
        graph.replay()
        return metrics

    return play


class CudaGraphUpdate:
    """`update` of an off-policy agent: the same numbers, from one recording for each kind of update."""

    def __init__(
        self, agent: OffPolicyAgent, record: Callable[[Callable[[], Metrics]], Callable[[], Metrics]] = cuda_graph
    ) -> None:
        self.agent = agent
        self.record = record
        self.recordings: dict[int, Recording] = {}
        self.seen: Counter[int] = Counter()

    def __call__(self, batch: Batch) -> Metrics:
        """As `update` of the agent; the metrics are in the same tensors each time."""
        before = self.agent.updates
        kind = (before + 1) % self.agent.update_period
        self.seen[kind] += 1
        if self.seen[kind] <= WARM_UP:
            return self._side_stream(batch)
        if kind not in self.recordings:
            self.recordings[kind] = self._recording(batch)
            self.agent.updates = before
        recorded_batch, noise_buffer, play = self.recordings[kind]
        for tensor, new in zip(recorded_batch, batch, strict=True):
            tensor.copy_(new)
        noise_buffer.resample(self.agent.update_streams)
        metrics = play()
        # A graph leaves the host's count alone.
        self.agent.updates = before + 1
        return metrics

    def _side_stream(self, batch: Batch) -> Metrics:
        """An update on a stream of its own, as recording asks of those before it."""
        if self.agent.device.type != "cuda":
            return self.agent.update(batch)
        main_stream = torch.cuda.current_stream()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(main_stream)
        with torch.cuda.stream(side_stream):
            metrics = self.agent.update(batch)
        main_stream.wait_stream(side_stream)
        return metrics

    def _recording(self, batch: Batch) -> Recording:
        recorded_batch = Batch(*map(torch.clone, batch))
        noise_buffer = NoiseBuffer([torch.empty_like(batch.action) for _ in range(self.agent.NOISE_DRAWS)])

        def update() -> Metrics:
            noise_buffer.pos = 0
            self.agent.noise_buffer = noise_buffer
            try:
                return self.agent.update(recorded_batch)
            finally:
                self.agent.noise_buffer = None

        return Recording(recorded_batch, noise_buffer, self.record(update))
