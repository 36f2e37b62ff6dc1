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
from trainers.nn.stacked import Stacked
from trainers.torch_compat import FUSED_ADAM, inductor_compile

aten = torch.ops.aten
Tensors = Sequence[Tensor]


class CompiledStep:
    """`step` of an agent of one seed and of tensors [1, ...] as a function of tensors [S, ...] for all its seeds."""

    def __init__(self, agent: ActorCritic, step: Callable[..., Tensors]) -> None:
        self.step = step
        self.seed_views = [agent.seed_view(i) for i in range(len(agent.seeds))]
        self.tensors = [tensors_of(one) for one in self.seed_views]
        self.played: dict[tuple[torch.Size, ...], Callable[..., Tensors]] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensors:
        rows = list(zip(*(torch.split(x, 1) for x in inputs), strict=True))
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self.played:
            self.played[shapes] = compiled(
                lambda *row: tuple(self.step(self.seed_views[0], *row)), rows[0], self.tensors[0]
            )
        play = self.played[shapes]
        results = [play(*row, *tensors) for row, tensors in zip(rows, self.tensors, strict=True)]
        return results[0] if len(results) == 1 else [torch.cat(parts) for parts in zip(*results, strict=True)]


class CompiledUpdate:
    """`update` of an off-policy agent, compiled."""

    def __init__(self, agent: ActorCritic) -> None:
        self.agent = agent
        self.steps = [CompiledStep(agent, self._step) for _ in range(agent.update_period)]
        self.names: list[list[str]] = [[] for _ in range(agent.update_period)]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        kind = (self.agent.updates + 1) % self.agent.update_period
        noise = [self.agent.update_noise(batch.action) for _ in range(self.agent.NOISE_DRAWS)]
        figures = self.steps[kind](*batch, *noise)
        self.agent.updates += 1
        return dict(zip(self.names[kind], figures, strict=True))

    def _step(self, alone: Any, *inputs: Tensor) -> Tensors:
        batch = Batch(*inputs[: len(Batch._fields)])
        alone.updates = self.agent.updates
        alone.noise_buffer = NoiseBuffer(inputs[len(batch) :])
        figures: dict[str, Tensor] = alone.update(batch)
        self.names[alone.updates % alone.update_period] = list(figures)
        return list(figures.values())


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
    """`function` of `inputs`, which works on `tensors` where they lie, as a function of `inputs` and `tensors`.

    Raises RuntimeError where it reads any other tensor: the value of now would be built in.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes seconds

    before = [tensor.clone() for tensor in tensors]
    with torch.enable_grad():
        graph = make_fx(function, {FUSED_ADAM: adam})(*inputs)
    # To trace it is to do it.
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(value)
    play: Callable[..., Tensors] = inductor_compile(_lifted(graph, tensors), [*inputs, *tensors])
    return play


def _lifted(graph: GraphModule, tensors: Tensors) -> GraphModule:
    """The graph with `tensors` as further inputs."""
    nodes = graph.graph
    last = nodes.find_nodes(op="placeholder")[-1]
    homes = {}
    for i, tensor in reversed(list(enumerate(tensors))):
        with nodes.inserting_after(last):
            homes[tensor.untyped_storage().data_ptr()] = nodes.placeholder(f"tensor_{i}")
    for node in nodes.find_nodes(op="get_attr"):
        view = getattr(graph, node.target)
        home = homes.get(view.untyped_storage().data_ptr())
        if home is None:
            raise RuntimeError(f"the update reads a tensor of shape {tuple(view.shape)} that is no part of the agent")
        with nodes.inserting_before(node):
            place = (list(view.shape), list(view.stride()), view.storage_offset())
            node.replace_all_uses_with(nodes.call_function(aten.as_strided.default, (home, *place)))
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
        correction1, correction2 = (-torch.expm1(step * math.log(beta)) for beta in (beta1, beta2))
        # as_strided: TorchInductor would work a scalar out anew for every 16 numbers.
        size = (lr / correction1).float().as_strided((), ())
        scale = correction2.rsqrt().as_strided((), ())
        parameter.sub_(size * m / (v.sqrt() * scale + eps))
