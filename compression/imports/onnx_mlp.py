"""Policies in ONNX files: one chain of linear layers, with scaling before and behind it.

What was read must give what ONNX Runtime makes of the file itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import nn

from compression.imports.layers import Imported, Request, chain, rescale_notes, to_actions
from compression.imports.onnx_graph import Activation, Affine, Chain, Clip, GraphError, Linear, Step
from compression.imports.vecnormalize import read_statistics
from compression.runtime import onnx_session
from trainers.errors import one_line
from trainers.nn.stacked import make_linear
from trainers.policy import Clamp, Policy, Rescale, Standardize
from trainers.tensors import FloatArray

ALGORITHM = "onnx"
LARGEST = 2**28
SAMPLES = 256
TOLERANCE = 1e-4
# A clip that takes off less than this share of a range keeps a tanh from its ends; it is no bound of actions.
GUARD = 0.01
UNITS = (
    "add actions=rescale if these stand for the bounds of the environment, as behind gymnasium's RescaleAction and in "
    "every SAC, TD3 and DDPG of Stable-Baselines3; actions=clip if they are in the units of the environment"
)
OUTPUT_NAMES = ("action", "actions")
FLOATS = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}


class Parts(NamedTuple):
    """The steps of a graph before its layers, the layers and their activation, and the steps behind them."""

    before: list[Step]
    linears: list[nn.Linear]
    activation: str
    behind: list[Step]


def read_onnx(request: Request) -> Imported:
    """The policy of a file. Raises UserError for a graph that is not one chain of layers or does not fit."""
    if request.activation is not None:
        raise request.refuse(f"activation={request.activation}: an ONNX file says its own; leave activation out")
    try:
        if request.path.stat().st_size > LARGEST:
            raise request.refuse(f"has more than {LARGEST} bytes; allowed: networks of a few layers")
        graph = onnx.load(request.path).graph
    except Exception as error:  # whatever protobuf and onnx make of a damaged file
        raise request.refuse(
            f"is no ONNX file: {one_line(str(error))[:120]}; allowed: a file with its weights"
        ) from error
    source, output = _ends(request, graph)
    try:
        parts = _parts(Chain(graph, output).steps(source.name))
        inputs = _inputs(parts.before, request.spec.obs_dim)
        outputs = _outputs(parts.behind)
    except (GraphError, KeyError, ValueError) as error:
        raise request.refuse(
            f"{error}; allowed: linear layers with one activation, scaled, shifted or clipped before and behind"
        ) from error
    layers = chain(request, parts.linears, parts.activation)
    stages = [*inputs, *layers, *outputs]
    _check(request, source, output, stages)
    bounds = None if request.actions == "clip" else _bounds(outputs, request.spec.act_dim)
    tail = to_actions(request, squashed=False, bounds=bounds, remedy=UNITS)
    notes = rescale_notes(request, bounds)
    return Imported(Policy(request.spec, [*read_statistics(request), *stages, *tail]), ALGORITHM, notes)


def _ends(request: Request, graph: onnx.GraphProto) -> tuple[Any, str]:
    """The observation's input and the name of the action's output."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    outputs = [value.name for value in graph.output]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in FLOATS:
        names = ", ".join(value.name for value in inputs)
        raise request.refuse(f"has the inputs {names}; allowed: one, the observation in float32 or float64")
    actions = [name for name in outputs if name.lower() in OUTPUT_NAMES] or outputs
    if len(actions) != 1:
        raise request.refuse(f"has the outputs {', '.join(outputs)}; allowed: one, or one that is called action")
    return inputs[0], actions[0]


def _parts(steps: Sequence[Step]) -> Parts:
    """Raises GraphError where the steps are not layers with one activation between each two."""
    places = [i for i, step in enumerate(steps) if isinstance(step, Linear)]
    if not places:
        raise GraphError("it has no linear layer")
    first = places[0]
    if any(isinstance(step, Activation) for step in steps[:first]):
        raise GraphError("it has an activation before its first layer")
    linears: list[nn.Linear] = []
    activations: list[str] = []
    for place, following in zip(places, [*places[1:], len(steps)], strict=True):
        layer = steps[place]
        assert isinstance(layer, Linear)
        rest = list(steps[place + 1 : following])
        while rest and isinstance(rest[0], Affine) and (following < len(steps) or (rest[0].factor == 1).all()):
            layer = _scaled(layer, rest.pop(0))
        linears.append(make_linear(torch.tensor(layer.weight), torch.tensor(layer.bias)))
        if following == len(steps):
            break
        if len(rest) != 1 or not isinstance(rest[0], Activation):
            kinds = ", ".join(type(step).__name__.lower() for step in rest) or "nothing"
            raise GraphError(f"between two layers it has {kinds}")
        activations.append(rest[0].name)
    if len(set(activations)) > 1:
        raise GraphError(f"it has the activations {', '.join(activations)}, not one")
    return Parts(list(steps[:first]), linears, activations[0] if activations else "relu", rest)


def _scaled(layer: Linear, step: Step) -> Linear:
    """The layer with what scales and shifts its outputs inside."""
    assert isinstance(step, Affine)
    factor = np.broadcast_to(step.factor, layer.bias.shape)
    return Linear(layer.weight * factor[:, None], layer.bias * factor + step.shift)


def _merged(steps: Sequence[Step]) -> list[Step]:
    """The steps with neighbouring ones that scale or shift as one, and none that does nothing."""
    merged: list[Step] = []
    for step in steps:
        last = merged[-1] if merged else None
        if isinstance(step, Affine) and isinstance(last, Affine):
            merged[-1] = Affine(last.factor * step.factor, last.shift * step.factor + step.shift)
        else:
            merged.append(step)
    return [s for s in merged if not (isinstance(s, Affine) and (s.factor == 1).all() and (s.shift == 0).all())]


def _inputs(steps: Sequence[Step], size: int) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for step in _merged(steps):
        if isinstance(step, Affine):
            factor, shift = (np.array(np.broadcast_to(part, (size,))) for part in (step.factor, step.shift))
            if (factor == 0).any():
                raise GraphError("it multiplies an observation by 0")
            stages.append(Standardize(torch.tensor(-shift / factor), torch.tensor(1 / factor)))
        elif isinstance(step, Clip):
            stages.append(_clamp(step))
    return stages


def _outputs(steps: Sequence[Step]) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for step in _merged(steps):
        if isinstance(step, Affine):
            factor, shift = np.broadcast_arrays(step.factor, step.shift)
            stages.append(Rescale(torch.tensor(shift).float(), torch.tensor(factor).float()))
        elif isinstance(step, Clip):
            stages.append(_clamp(step))
        elif isinstance(step, Activation) and step.name == "tanh":
            stages.append(nn.Tanh())
        elif isinstance(step, Activation):
            raise GraphError(f"it has a {step.name} behind its last layer")
    return stages


def _clamp(step: Clip) -> Clamp:
    low, high = np.broadcast_arrays(step.low, step.high)
    return Clamp(torch.tensor(low).float(), torch.tensor(high).float())


def _bounds(stages: Sequence[nn.Module], size: int) -> tuple[FloatArray, FloatArray] | None:
    """What a tanh or a clip at the end of a policy bounds its outputs to, each [size]; None where nothing does."""
    ends = np.array([[-np.inf], [np.inf]]).repeat(size, axis=1)
    for stage in stages:
        if isinstance(stage, nn.Tanh):
            # Also behind a clip, as of gSDE: what a scale of actions means is the range of the tanh.
            ends = np.array([[-1.0], [1.0]]).repeat(size, axis=1)
        elif isinstance(stage, Clamp):
            clipped = np.clip(ends, stage.low.numpy(), stage.high.numpy())
            guards = np.isfinite(ends).all() and (np.ptp(clipped, axis=0) > (1 - GUARD) * np.ptp(ends, axis=0)).all()
            ends = ends if guards else clipped
        elif isinstance(stage, Rescale):
            if not np.isfinite(ends).all():
                return None
            # A scale below 0 swaps the ends.
            ends = np.sort(ends * stage.scale.numpy() + stage.center.numpy(), axis=0)
    if not np.isfinite(ends).all():
        return None
    low, high = ends.astype(np.float32)
    return low, high


def _check(request: Request, source: Any, output: str, stages: Sequence[nn.Module]) -> None:
    """Raises UserError where the stages are not what ONNX Runtime makes of the file."""
    tensor_type = source.type.tensor_type
    batched = len(tensor_type.shape.dim) != 1
    obs = 3 * np.random.default_rng(0).normal(size=(SAMPLES, request.spec.obs_dim)).astype(
        FLOATS[tensor_type.elem_type]
    )
    try:
        session = onnx_session(request.path)
        expected = np.stack(
            [session.run([output], {source.name: row[None] if batched else row})[0].ravel() for row in obs]
        )
    except Exception as error:  # whatever ONNX Runtime raises
        raise request.refuse(
            f"ONNX Runtime does not run it: {one_line(str(error))[:120]}; export it for batches of 1 in float"
        ) from error
    found = nn.Sequential(*stages)(torch.from_numpy(obs).float()).numpy()
    difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if not np.isfinite(expected).all():
        raise request.refuse("gives actions that are not finite: its training diverged; give an earlier checkpoint")
    if not difference <= TOLERANCE * max(1, np.abs(expected).max()):
        raise request.refuse(
            f"was not understood: its actions differ by {difference:.2g} from those of ONNX Runtime; "
            "export it without what is computed between its layers"
        )
