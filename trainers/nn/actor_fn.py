"""Actors as NumPy functions, for acting: a small call takes a tenth of the time that torch's takes."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from trainers.cuda import cuda_graph
from trainers.nn.stacked import StackedMLP
from trainers.tensors import ArrayFn, FloatArray


class ActorFn:
    """An actor as a NumPy function of observations [S, E, obs_dim].

    Plain layers on a CPU share their memory with it, so that it follows the network by itself. All else is copied:
    weights on a GPU, quantised weights, what lies in front of the network.

    Args:
        network: The actor.
        make_input_fn: Makes what lies in front of the network, with the values of now; None where nothing does.
    """

    def __init__(self, network: StackedMLP, make_input_fn: Callable[[], ArrayFn] | None = None) -> None:
        self.network = network
        self.make_input_fn = make_input_fn
        self._fn: ArrayFn | None = None
        self._version = 0

    def __call__(self, obs: FloatArray, version: int = 0) -> FloatArray:
        """Outputs [S, E, n] of the network.

        Args:
            obs: Observations [S, E, obs_dim], as the environments give them.
            version: Where it is another than in the last call, the network has changed since.
        """
        if self._fn is None or (version != self._version and not self._shares_memory()):
            self._fn = self._make()
            self._version = version
        return self._fn(obs)

    def invalidate(self) -> None:
        """The network has changed, whatever the version."""
        self._fn = None

    def _shares_memory(self) -> bool:
        on_cpu = self.network.flat.device.type == "cpu"
        return on_cpu and self.network.is_plain() and self.make_input_fn is None

    def _make(self) -> ArrayFn:
        network_fn = self.network.numpy_fn()
        if self.make_input_fn is None:
            return network_fn
        input_fn = self.make_input_fn()
        return lambda obs: network_fn(input_fn(obs))


class DelayedActor:
    """Two copies of an actor; acting uses the last but one, so that nothing waits for an update just begun."""

    def __init__(self, actor: StackedMLP) -> None:
        self.copies = [self._copy(actor) for _ in range(2)]
        self.published = 0
        self.pairs: list[list[tuple[Tensor, Tensor]]] = []
        """For each copy: its tensors, each beside the one that it is copied from."""
        sources = self._tensors(actor)
        for actor_copy in self.copies:
            self.pairs.append(list(zip(self._tensors(actor_copy), sources, strict=True)))
        self._actor_fns = [ActorFn(actor_copy) for actor_copy in self.copies]

    def __call__(self, obs: FloatArray) -> FloatArray:
        """Outputs [S, E, n] of the actor of the last `publish` but one, for observations [S, E, obs_dim]."""
        return self._actor_fns[self._acting](obs, self.published)

    def publish(self) -> None:
        """Copy the actor of now."""
        self._copy_to(self._acting)
        self.published += 1

    def state(self, i: int) -> dict[str, Tensor]:
        """The parameters and buffers of seed number i that acting uses, on the CPU."""
        acting_copy = self.copies[self._acting]
        return {
            name: tensor[i].cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in acting_copy.state_dict().items()
        }

    @torch.no_grad()
    def load_state(self, i: int, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave, when the actor has its own state back."""
        self.published = 0
        self._copy_to(1)
        for name, tensor in self.copies[0].state_dict().items():
            tensor[i] = state[name]
        for actor_fn in self._actor_fns:
            actor_fn.invalidate()

    @torch.no_grad()
    def _copy_to(self, slot: int) -> None:
        for target, source in self.pairs[slot]:
            target.copy_(source)

    def _copy(self, actor: StackedMLP) -> StackedMLP:
        actor_copy = copy.deepcopy(actor).requires_grad_(False)
        for tensor in self._tensors(actor_copy):
            tensor.data = tensor.data.contiguous()
        return actor_copy

    def _tensors(self, actor: StackedMLP) -> list[Tensor]:
        return [*actor.parameters(), *actor.buffers()]

    @property
    def _acting(self) -> int:
        """The copy that acting uses; the next `publish` writes into it."""
        return self.published % 2


class CudaDelayedActor(DelayedActor):
    """Its copies are on the GPU, and acting is a CUDA graph on a stream of its own, beside the update at hand."""

    def __init__(self, actor: StackedMLP) -> None:
        super().__init__(actor)
        self._stream = torch.cuda.Stream(priority=-1)
        self._stream.wait_stream(torch.cuda.current_stream())
        self._was_published = [torch.cuda.Event() for _ in range(2)]
        self._graphs: dict[tuple[int, tuple[int, ...]], CudaGraphFn] = {}
        """By copy and by shape of the observations."""
        self._publications = [cuda_graph(functools.partial(self._copy_to, slot)) for slot in range(2)]

    def __call__(self, obs: FloatArray) -> FloatArray:
        """As DelayedActor's; waits for the publication of that copy, not for the update behind it."""
        key = (self._acting, obs.shape)
        self._stream.wait_event(self._was_published[self._acting])
        if key not in self._graphs:
            self._graphs[key] = CudaGraphFn(self.copies[self._acting], obs.shape, self._stream)
        return self._graphs[key](obs)

    def publish(self) -> None:
        """Copy the actor of now, without waiting for it."""
        slot = self._acting
        self._publications[slot]()
        self._was_published[slot].record()
        self.published += 1

    def _copy(self, actor: StackedMLP) -> StackedMLP:
        actor_copy = copy.deepcopy(actor).requires_grad_(False)
        actor_copy.flatten()
        return actor_copy

    def _tensors(self, actor: StackedMLP) -> list[Tensor]:
        return [actor.flat, *actor.buffers()]


class CudaGraphFn:
    """A network as a NumPy function: copy in, forward pass and copy out are one CUDA graph.

    Args:
        network: Its weights may change from call to call, in place.
        shape: Of the inputs, [N, B, n].
        stream: Where the graph runs.
    """

    def __init__(self, network: StackedMLP, shape: tuple[int, ...], stream: torch.cuda.Stream) -> None:
        self.stream = stream
        self.graph = torch.cuda.CUDAGraph()
        device = network.flat.device
        self.inputs = torch.zeros(shape).pin_memory()
        with torch.no_grad(), torch.cuda.stream(stream):
            self.outputs = network(self.inputs.to(device)).cpu().pin_memory()
        stream.synchronize()
        with torch.no_grad(), torch.cuda.graph(self.graph, stream=stream):
            outputs = network(self.inputs.to(device, non_blocking=True))
            self.outputs.copy_(outputs, non_blocking=True)

    def __call__(self, x: FloatArray) -> FloatArray:
        """[N, B, n] -> [N, B, m]."""
        self.inputs.numpy()[...] = x
        with torch.cuda.stream(self.stream):
            self.graph.replay()
        self.stream.synchronize()
        outputs: FloatArray = self.outputs.numpy().copy()
        return outputs
