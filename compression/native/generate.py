"""The C files of a policy, from the templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from numpy.typing import NDArray

from compression.native import layouts
from compression.native.fewbits import GROUPS, few_bit_rows
from compression.native.network import Layer, Network, float_literal

Layout = Literal["auto", "rows", "packed"]
LAYOUTS: tuple[Layout, ...] = ("auto", "rows", "packed")
Weights = Literal["auto", "bytes", "bits"]
WEIGHTS: tuple[Weights, ...] = ("auto", "bytes", "bits")
TableKind = Literal["packed", "bits", "rows"]
TEMPLATES = Path(__file__).parent / "templates"
PER_LINE = 24
# C types of a layer's sum, of its bias and of the network's input.
INT8_TYPES = {"sum_type": "int32_t", "bias_type": "int32_t", "input_type": "uint8_t"}
FLOAT_TYPES = {"sum_type": "float", "bias_type": "float", "input_type": "float"}


@dataclass(frozen=True)
class Options:
    """How C is written.

    `layout`: order of the weights; auto writes both and leaves the choice to the compiler's target.
    `skip_zeros`: leave out inputs behind a ReLU that are zero; needs the packed layout, and time depends on the data.
    `weights`: whether a weight of fewer than eight bits takes a byte or its bits; auto leaves the choice to the
    compiler's target: bits where nothing is vectorised, which are microcontrollers.
    """

    layout: Layout = "auto"
    skip_zeros: bool = False
    weights: Weights = "auto"


@dataclass(frozen=True)
class Table:
    """The weights of a layer in one order, and the macro `when` by which the compiler takes it.

    `inputs` is the padded number of inputs, `type` that of the numbers in C.
    """

    when: str
    inputs: int
    type: str
    values: NDArray[Any]


def render(name: str, **values: Any) -> str:
    """A template with its values; a name that it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"numbers": numbers, "number": float_literal}
    return environment.get_template(name).render(**values)


def policy_source(network: Network, options: Options, title: str) -> str:
    """policy.c."""
    layout = "packed" if options.skip_zeros else options.layout
    kinds = table_kinds(network, options)
    layers = [_layer_values(network, number, kinds, options) for number in range(len(network.layers))]
    types = INT8_TYPES if network.quantized else FLOAT_TYPES
    if "bits" in kinds:
        types = types | {"bias_type": "POLICY_BIAS"}
    return render(
        "policy.c.j2",
        title=title,
        net=network,
        layers=layers,
        with_bits="bits" in kinds,
        # Kernels that count levels from 128 are among the packed ones that skip nothing.
        with_signed="packed" in kinds and not options.skip_zeros,
        layout=f"POLICY_LAYOUT_{layout.upper()}",
        weights=f"POLICY_WEIGHTS_{options.weights.upper()}",
        skip_zeros=options.skip_zeros,
        width=max(max(layer["longest"], layouts.padded(layer["outputs"], layouts.LANES)) for layer in layers),
        kernels=_activation_kernels(network),
        dense=_kernels("dense_int8.h" if network.quantized else "dense_float.h"),
        dense_bits=_kernels("dense_bits.h"),
        small_bias_type=_small_bias_type(network),
        **types,
    )


def table_kinds(network: Network, options: Options) -> list[TableKind]:
    """Which tables of weights policy.c has, in the order in which the compiler looks for one."""
    if options.weights == "bits":
        return ["bits"]
    layout = "packed" if options.skip_zeros else options.layout
    if layout == "packed":
        return ["packed"]
    few_bits = network.quantized and network.weight_bits < 8 and options.weights == "auto"
    rows: list[TableKind] = ["bits", "rows"] if few_bits else ["rows"]
    return rows if layout == "rows" else ["packed", *rows]


def _layer_values(network: Network, number: int, kinds: Sequence[TableKind], options: Options) -> dict[str, Any]:
    """What the template writes of a layer."""
    layer = network.layers[number]
    outputs, inputs = layer.weight.shape
    previous = network.layers[number - 1].activation if number else ""
    tables = [_table(layer, kind, network.weight_bits) for kind in kinds]
    more = layouts.padded(outputs, layouts.LANES) - outputs
    values = {
        "number": number,
        "inputs": inputs,
        "longest": max(table.inputs for table in tables),
        "tables": tables,
        "outputs": outputs,
        "activation": layer.activation,
        "skip": options.skip_zeros and previous == "relu",
        "bias": layer.bias if list(kinds) == ["bits"] else np.pad(layer.bias, (0, more)),
        "grid": layer.grid,
        "scale": layer.scale,
        "fused": layer.fused,
    }
    if layer.grid is not None:
        values["bias_signed"] = np.pad(layer.bias + 128 * layer.weight.sum(1, dtype=np.int32), (0, more))
    return values


def _table(layer: Layer, kind: TableKind, bits: int) -> Table:
    """The weights of a layer in one order."""
    inputs = layer.weight.shape[1]
    if kind == "bits":
        return Table(
            "POLICY_FEW_BITS", layouts.padded(inputs, GROUPS[bits].inputs), "uint32_t", few_bit_rows(layer.weight, bits)
        )
    when = "POLICY_PACKED" if kind == "packed" else "!POLICY_PACKED"
    if layer.grid is None:
        values = layouts.float_packed(layer.weight) if kind == "packed" else layouts.float_rows(layer.weight)
        return Table(when, inputs, "float", values)
    if kind == "packed":
        return Table(when, layouts.padded(inputs, layouts.GROUP), "int8_t", layouts.int8_packed(layer.weight))
    return Table(when, layouts.row_length(inputs), "int8_t", layouts.int8_rows(layer.weight))


def _small_bias_type(network: Network) -> str:
    """The type of biases in the tables that must be small."""
    largest = max(int(np.abs(layer.bias).max()) for layer in network.layers)
    return "int16_t" if largest < 2**15 else "int32_t"


def _activation_kernels(network: Network) -> str:
    """What stands between the layers; more than ReLU and tanh only where the policy has it."""
    kernels = _kernels("kernels.h")
    if network.activations <= {"relu", "tanh"}:
        return kernels
    return f"{kernels}\n\n{_kernels('activations.h')}"


def _kernels(name: str) -> str:
    return (TEMPLATES / name).read_text().rstrip()


def numbers(values: NDArray[np.generic] | Sequence[float]) -> str:
    """The rows of a C table."""
    array = np.asarray(values).reshape(-1)
    if array.dtype.kind == "f":
        texts = [float_literal(value) for value in array.astype(np.float32)]
        per_line = PER_LINE // 3
    elif array.dtype == np.uint32:
        texts = [f"0x{value:08x}u" for value in array.tolist()]
        per_line = PER_LINE // 3
    else:
        texts = [str(value) for value in array.tolist()]
        per_line = PER_LINE
    lines = [", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line)]
    return ",\n".join(lines)
