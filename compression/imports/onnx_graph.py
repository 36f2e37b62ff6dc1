"""One chain of an ONNX graph as a list of steps: layers, activations, and what scales, shifts or clips."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trainers.nn.activations import ACTIVATIONS

Numbers = NDArray[np.float64]
# Nodes that change the shape of their first input; the others say which.
SHAPES = ("Reshape", "Expand", "Squeeze", "Unsqueeze")
# Nodes that change no number of one flat observation.
SAME = ("Identity", "Dropout", "Flatten", *SHAPES)
PROBES = np.linspace(-6, 6, 121)


class GraphError(ValueError):
    """A graph that is not one chain of layers."""


@dataclass(frozen=True)
class Linear:
    """x W^T + b: weight [out, in], bias [out]."""

    weight: Numbers
    bias: Numbers


@dataclass(frozen=True)
class Affine:
    """factor x + shift; scalars or one number per column."""

    factor: Numbers
    shift: Numbers


@dataclass(frozen=True)
class Clip:
    """Every entry between two bounds."""

    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Activation:
    """One of the activations by its name."""

    name: str


Step = Linear | Affine | Clip | Activation


class Chain:
    """The nodes from the one input of a graph to one of its outputs."""

    def __init__(self, graph: onnx.GraphProto, output: str) -> None:
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _constant(node)
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                # torch.onnx writes equal tensors once, such as biases of 0.
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self.output = output
        producers = {name: node for node in graph.node for name in node.output}
        self.nodes = _ancestors(graph, producers, output)

    def steps(self, value: str) -> list[Step]:
        """What is done to a value until the output. Raises GraphError for a node that is not understood."""
        steps: list[Step] = []
        while value != self.output:
            consumers = self._consumers(value)
            if len(consumers) == 1 and (found := self._step(consumers[0], value)) is not None:
                steps += found
                value = consumers[0].output[0]
            else:
                name, value = self._activation(value)
                steps.append(Activation(name))
        return steps

    def _consumers(self, value: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if value in node.input]

    def _step(self, node: onnx.NodeProto, value: str) -> list[Step] | None:
        """The steps of a node that is no activation; None for one that may be a part of one."""
        kind = node.op_type
        others = [name for name in node.input if name and name != value]
        first = node.input[0] == value
        if kind in SAME or (kind == "Cast" and _attributes(node)["to"] in (onnx.TensorProto.FLOAT, 11)):
            return []
        if kind in ("Gemm", "MatMul") and first and len(others) + 1 == len(node.input):
            return [self._linear(node)]
        if kind == "Clip":
            return [self._clip(node)]
        if kind in ("Add", "Sub", "Mul", "Div", "Max", "Min") and len(others) == 1:
            return [_arithmetic(node, self._constant(node, others[0]), first)]
        return None

    def _constant(self, node: onnx.NodeProto, name: str) -> Numbers:
        if name not in self.constants:
            raise GraphError(f"node {node.op_type} {node.name!r} takes a second value that is no constant")
        return np.asarray(self.constants[name], np.float64)

    def _linear(self, node: onnx.NodeProto) -> Linear:
        attributes = _attributes(node)
        weight = self._constant(node, node.input[1])
        if weight.ndim != 2 or attributes.get("transA"):
            raise GraphError(f"node {node.op_type} {node.name!r} is no linear layer")
        if not attributes.get("transB"):
            weight = weight.T
        bias = np.zeros(1)
        if node.op_type == "Gemm" and len(node.input) > 2:
            bias = self._constant(node, node.input[2]) * attributes.get("beta", 1.0)
        bias = np.broadcast_to(bias.ravel() if bias.size > 1 else bias.reshape(1), (len(weight),))
        return Linear(weight * attributes.get("alpha", 1.0), bias)

    def _clip(self, node: onnx.NodeProto) -> Clip:
        attributes = _attributes(node)
        names = [*node.input[1:], "", ""][:2]
        defaults = (attributes.get("min", -np.inf), attributes.get("max", np.inf))
        low, high = (
            self._constant(node, name) if name else np.asarray(default, np.float64)
            for name, default in zip(names, defaults, strict=True)
        )
        return Clip(low, high)

    def _activation(self, value: str) -> tuple[str, str]:
        """The activation that begins at a value, by what it does to numbers, and the value where it ends."""
        values = {value: PROBES}
        kinds: list[str] = []
        # They stand in the order of the graph: a node behind those that it needs.
        for node in self.nodes:
            inputs = [name for name in node.input if name]
            if not any(name in values for name in inputs):
                continue
            if node.op_type in ("Gemm", "MatMul"):
                break
            numbers = [values[name] if name in values else self._scalar(node, name) for name in inputs]
            kinds.append(node.op_type)
            values[node.output[0]] = _evaluate(node, numbers)
            open_values = [name for name in values if self._waits(name, values)]
            name = _named(values[node.output[0]])
            if open_values == [node.output[0]] and name is not None:
                return name, node.output[0]
        found = ", ".join(kinds) or "that use one value twice"
        raise GraphError(f"nodes {found} are none of the activations {', '.join(ACTIVATIONS)}")

    def _waits(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a value is the output or is needed by a node that was not evaluated."""
        return name == self.output or any(node.output[0] not in values for node in self._consumers(name))

    def _scalar(self, node: onnx.NodeProto, name: str) -> Numbers:
        number = self._constant(node, name)
        if number.size != 1:
            raise GraphError(f"node {node.op_type} {node.name!r} is no part of an activation")
        return number.reshape(())


def _constant(node: onnx.NodeProto) -> NDArray[Any]:
    attributes = _attributes(node)
    if isinstance(attributes.get("value"), onnx.TensorProto):
        return numpy_helper.to_array(attributes["value"])
    return np.asarray(next(iter(attributes.values())))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _ancestors(graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, constants and computed shapes left out, in the order of the graph."""
    needed: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            inputs = list(producers[name].input) if name in producers else []
            waiting += inputs[:1] if inputs and producers[name].op_type in SHAPES else inputs
    return [node for node in graph.node if node.op_type != "Constant" and needed & set(node.output)]


def _arithmetic(node: onnx.NodeProto, number: Numbers, first: bool) -> Step:
    kind = node.op_type
    if number.size != max(number.shape, default=1):
        raise GraphError(f"node {kind} {node.name!r} has a constant of shape {list(number.shape)}")
    number = number.ravel() if number.size > 1 else number.reshape(())
    one = np.ones_like(number)
    zero = np.zeros_like(number)
    if kind == "Add":
        return Affine(one, number)
    if kind == "Sub":
        return Affine(one, -number) if first else Affine(-one, number)
    if kind == "Mul":
        return Affine(number, zero)
    if kind == "Div" and first and (number != 0).all():
        return Affine(one / number, zero)
    if kind == "Max":
        return Clip(number, np.full_like(number, np.inf))
    if kind == "Min":
        return Clip(np.full_like(number, -np.inf), number)
    raise GraphError(f"node {kind} {node.name!r} divides by a value or by 0")


def _softplus(x: Numbers) -> Numbers:
    return np.logaddexp(0, x)


def _torch(name: str) -> Callable[..., Numbers]:
    def call(x: Numbers, **settings: Any) -> Numbers:
        function: Any = getattr(torch, name, None) or getattr(torch.nn.functional, name)
        return np.asarray(function(torch.from_numpy(np.asarray(x)), **settings))

    return call


FUNCTIONS: dict[str, Callable[..., Numbers]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": _torch("sigmoid"),
    "Softplus": _softplus,
    "Erf": _torch("erf"),
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


def _evaluate(node: onnx.NodeProto, numbers: list[Numbers]) -> Numbers:
    """A node of an activation on the probes. Raises GraphError for a kind that is not known."""
    attributes = _attributes(node)
    kind = node.op_type
    if kind == "Elu":
        return _torch("elu")(numbers[0], alpha=attributes.get("alpha", 1.0))
    if kind == "LeakyRelu":
        return _torch("leaky_relu")(numbers[0], negative_slope=attributes.get("alpha", 0.01))
    if kind == "Gelu":
        return _torch("gelu")(numbers[0], approximate=attributes.get("approximate", b"none").decode())
    if kind == "Swish":
        return numbers[0] * _torch("sigmoid")(attributes.get("alpha", 1.0) * numbers[0])
    if kind not in FUNCTIONS:
        raise GraphError(f"node {kind} {node.name!r} is not understood")
    return FUNCTIONS[kind](*numbers)


def _named(found: Numbers) -> str | None:
    """The activation that gives these numbers on the probes."""
    for name, kind in ACTIVATIONS.items():
        if np.allclose(found, kind()(torch.from_numpy(PROBES)).numpy(), rtol=1e-5, atol=1e-6):
            return name
    return None
