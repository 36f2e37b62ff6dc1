"""The private parts of torch do what we take them for."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from trainers import torch_compat


def test_the_fused_kernel_is_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator)
    expected = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([expected], lr=1e-2)
    ours = start.clone()
    moments = [torch.zeros(7), torch.zeros(7)]
    step = torch.zeros(())
    for _ in range(5):
        gradient = torch.randn(7, generator=generator)
        expected.grad = gradient.clone()
        adam.step()
        step += 1
        torch_compat.fused_adam_([ours], [gradient], moments[:1], moments[1:], [step], torch.tensor(1e-2))
    torch.testing.assert_close(ours, expected.detach())
    assert step == 5


def test_a_graph_with_autograd_in_it_is_compiled() -> None:
    def gradient(x: torch.Tensor) -> tuple[torch.Tensor]:
        x = x.detach().requires_grad_()
        return (torch.autograd.grad(x.sin().sum(), x)[0],)

    x = torch.linspace(0, 1, 16)
    with torch.enable_grad():
        graph = make_fx(gradient)(x)
    (found,) = torch_compat.inductor_compile(graph, [x])(x)
    torch.testing.assert_close(found, x.cos())


def test_a_cpu_says_whether_it_has_bf16_products() -> None:
    assert isinstance(torch_compat.has_bf16_products(), bool)
