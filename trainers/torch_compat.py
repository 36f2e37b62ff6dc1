"""The private parts of torch that rlc needs, in one place, as they are in torch 2.8 to 2.13.

- The kernel behind `torch.optim.Adam(fused=True)`, without the 100 microseconds of Python around it; it has no public
  name (https://github.com/pytorch/pytorch/pull/88015).
- TorchInductor for a graph that was traced with autograd in it; `torch.compile` traces by itself and without
  (https://github.com/pytorch/pytorch/pull/95594).
- Whether a CPU multiplies bfloat16 numbers itself.

`tests/trainers/test_torch_compat.py` fails where one of them changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

FUSED_ADAM = torch.ops.aten._fused_adam_.tensor_lr
# On a GPU it works on at most so many tensors at a time, and with one of the GPU's processors on each 2^16 numbers.
FUSED_ADAM_TENSORS = 36
FUSED_ADAM_NUMBERS = 2**16


def fused_adam_(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    lr: Tensor,
) -> None:
    """One step of Adam in place: beta 0.9 and 0.999, epsilon 1e-8; `steps`, scalars, count this one already."""
    torch._fused_adam_(
        parameters,
        gradients,
        exp_avgs,
        exp_avg_sqs,
        [],
        steps,
        amsgrad=False,
        lr=lr,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )


def inductor_compile(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """A traced graph compiled for inputs of these shapes, in this process and without a cache of graphs."""
    import torch._inductor  # takes seconds
    from torch._inductor import config

    with config.patch(compile_threads=1, fx_graph_cache=False):
        compiled: Callable[..., Any] = torch._inductor.compile(graph, list(inputs))  # noqa: SLF001 (see above)
    return compiled


def has_bf16_products() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 (see above)
