"""Updates compiled by TorchInductor: for one seed, and played for each. The same mathematics, rounded otherwise.

What is compiled needs no autograd, makes a tenth of the calls and fuses what lies between matrix products. Seeds take
turns, since the numbers of one fit the caches: in a pack each does to the bit what it does alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from trainers.actor_critic import ActorCritic, NoiseBuffer
from trainers.data.replay import Batch
from trainers.nn.flat_storage import Stacked
from trainers.torch_compat import FUSED_ADAM, inductor_compile

aten = torch.ops.aten
Tensors = Sequence[Tensor]


class CompiledStep:
    """`step` of an agent of one seed and of tensors [1, ...] as a function of tensors [S, ...] for all its seeds."""

    def __init__(self, agent: ActorCritic, step: Callable[..., Tensors]) -> None:
        self.step = step
        self.seed_views: list[ActorCritic] = []
        self.tensors: list[list[Tensor]] = []
        for i in range(len(agent.seeds)):
            seed_view = agent.seed_view(i)
            self.seed_views.append(seed_view)
            self.tensors.append(tensors_of(seed_view))
        self.compiled_steps: dict[tuple[torch.Size, ...], Callable[..., Tensors]] = {}
        """By the shapes of the inputs."""

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensors:
        """Results [S, ...] for inputs [S, ...]; new shapes are compiled first."""
        seed_inputs = list(zip(*(torch.split(x, 1) for x in inputs), strict=True))
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self.compiled_steps:
            self.compiled_steps[shapes] = compiled(self._first_step, seed_inputs[0], self.tensors[0])
        step = self.compiled_steps[shapes]
        results: list[Tensors] = []
        for row, tensors in zip(seed_inputs, self.tensors, strict=True):
            results.append(step(*row, *tensors))
        if len(results) == 1:
            return results[0]
        return list(map(torch.cat, zip(*results, strict=True)))

    def _first_step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The step of the first seed, which is compiled for all."""
        return tuple(self.step(self.seed_views[0], *inputs))


class CompiledUpdate:
    """`update` of an off-policy agent, compiled."""

    def __init__(self, agent: ActorCritic) -> None:
        self.agent = agent
        self.steps = [CompiledStep(agent, self._step) for _ in range(agent.update_period)]
        self.names: list[list[str]] = [[] for _ in range(agent.update_period)]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """As `update` of the agent."""
        kind = (self.agent.updates + 1) % self.agent.update_period
        noise = [self.agent.update_noise(batch.action) for _ in range(self.agent.NOISE_DRAWS)]
        metrics = self.steps[kind](*batch, *noise)
        self.agent.updates += 1
        return dict(zip(self.names[kind], metrics, strict=True))

    def _step(self, seed_view: Any, *inputs: Tensor) -> Tensors:
        batch = Batch(*inputs[: len(Batch._fields)])
        seed_view.updates = self.agent.updates
        seed_view.noise_buffer = NoiseBuffer(inputs[len(batch) :])
        metrics: dict[str, Tensor] = seed_view.update(batch)
        self.names[seed_view.updates % seed_view.update_period] = list(metrics)
        return list(metrics.values())


def tensors_of(agent: ActorCritic) -> list[Tensor]:
    """All tensors of an agent that an update may read or write."""
    tensors = [value for value in vars(agent).values() if isinstance(value, Tensor)]
    for network in agent.networks.values():
        assert isinstance(network, Stacked)
        tensors += [network.flat, *network.buffers()]
    for optimizer in agent.optimizers.values():
        tensors += [optimizer.gradient, optimizer.exp_avg, optimizer.exp_avg_sq, optimizer.steps, optimizer.lr]
    return tensors


def compiled(function: Callable[..., Tensors], inputs: Tensors, tensors: Tensors) -> Callable[..., Tensors]:
    """A function of tensors, compiled.

    Args:
        function: Takes tensors of the shapes of `inputs`, and works on `tensors` where they are.
        inputs: Examples, which it is traced with.
        tensors: All others that it reads or writes.

    Returns:
        The same as a function of inputs and tensors.

    Raises:
        RuntimeError: Where it reads any other tensor: the value of now would be built in.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes seconds

    before = [tensor.clone() for tensor in tensors]
    with torch.enable_grad():
        graph = make_fx(function, {FUSED_ADAM: adam})(*inputs)
    # To trace it is to do it.
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(value)
    compiled_function: Callable[..., Tensors] = inductor_compile(_lifted(graph, tensors), [*inputs, *tensors])
    return compiled_function


def _lifted(graph: GraphModule, tensors: Tensors) -> GraphModule:
    """The graph with `tensors` as further inputs."""
    nodes = graph.graph
    last = nodes.find_nodes(op="placeholder")[-1]
    placeholders = {}
    """By the address of the storage that each one stands for."""
    for i, tensor in reversed(list(enumerate(tensors))):
        with nodes.inserting_after(last):
            placeholders[tensor.untyped_storage().data_ptr()] = nodes.placeholder(f"tensor_{i}")
    for node in nodes.find_nodes(op="get_attr"):
        view = getattr(graph, node.target)
        placeholder = placeholders.get(view.untyped_storage().data_ptr())
        if placeholder is None:
            raise RuntimeError(f"the update reads a tensor of shape {tuple(view.shape)} that is no part of the agent")
        with nodes.inserting_before(node):
            layout = (list(view.shape), list(view.stride()), view.storage_offset())
            node.replace_all_uses_with(nodes.call_function(aten.as_strided.default, (placeholder, *layout)))
        nodes.erase_node(node)
    return GraphModule(nn.Module(), nodes)


def adam(
    parameters: Tensors,
    gradients: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    _: Tensors,
    steps: Tensors,
    *,
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    **__: Any,
) -> None:
    """What the fused kernel does, in operations that can be fused with others."""
    for parameter, gradient, m, v, step in zip(parameters, gradients, exp_avgs, exp_avg_sqs, steps, strict=True):
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        correction1 = -torch.expm1(step * math.log(beta1))
        correction2 = -torch.expm1(step * math.log(beta2))
        # as_strided: TorchInductor would work a scalar out anew for every 16 numbers.
        size = (lr / correction1).float().as_strided((), ())
        scale = correction2.rsqrt().as_strided((), ())
        parameter.sub_(size * m / (v.sqrt() * scale + eps))
