"""The C files of a policy, from the templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from numpy.typing import NDArray

from compression.native import layouts
from compression.native.network import Layer, Network, float_literal

Layout = Literal["auto", "rows", "packed"]
LAYOUTS: tuple[Layout, ...] = ("auto", "rows", "packed")
TEMPLATES = Path(__file__).parent / "templates"
PER_LINE = 24


@dataclass(frozen=True)
class Options:
    """How C is written.

    `layout`: order of the weights; auto writes both and leaves the choice to the compiler's target.
    `skip_zeros`: leave out inputs behind a ReLU that are zero; needs the packed layout, and time depends on the data.
    """

    layout: Layout = "auto"
    skip_zeros: bool = False


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
    layers = [_layer_values(network, number, layout, options) for number in range(len(network.layers))]
    return render(
        "policy.c.j2",
        title=title,
        net=network,
        layers=layers,
        with_rows=layout != "packed",
        with_packed=layout != "rows",
        layout=f"POLICY_LAYOUT_{layout.upper()}",
        skip_zeros=options.skip_zeros,
        width=max(max(layer["padded_inputs"], layouts.padded(layer["outputs"], layouts.LANES)) for layer in layers),
        kernels=_kernels("kernels.h"),
        dense=_kernels("dense_int8.h" if network.quantized else "dense_float.h"),
        weight_type="int8_t" if network.quantized else "float",
        sum_type="int32_t" if network.quantized else "float",
        input_type="uint8_t" if network.quantized else "float",
    )


def _layer_values(network: Network, number: int, layout: Layout, options: Options) -> dict[str, Any]:
    """What the template writes of a layer."""
    layer = network.layers[number]
    outputs, inputs = layer.weight.shape
    previous = network.layers[number - 1].activation if number else ""
    values = {
        "number": number,
        "inputs": inputs,
        "padded_inputs": layouts.padded(inputs, layouts.GROUP) if network.quantized else inputs,
        "outputs": outputs,
        "activation": layer.activation,
        "skip": options.skip_zeros and previous == "relu",
        "bias": np.pad(layer.bias, (0, layouts.padded(outputs, layouts.LANES) - outputs)),
        "grid": layer.grid,
        "scale": layer.scale,
        "fused": layer.fused,
    }
    return values | _weights(layer, layout)


def _weights(layer: Layer, layout: Layout) -> dict[str, Any]:
    """The tables of weights that the layout asks for, and the bias of kernels that count levels from 128."""
    weight, bias = layer.weight, layer.bias
    values: dict[str, Any] = {}
    quantized = layer.grid is not None
    if layout != "packed":
        values["rows"] = layouts.int8_rows(weight) if quantized else layouts.float_rows(weight)
    if layout != "rows":
        values["packed"] = layouts.int8_packed(weight) if quantized else layouts.float_packed(weight)
    if quantized:
        signed = bias + 128 * weight.sum(1, dtype=np.int32)
        values["bias_signed"] = np.pad(signed, (0, layouts.padded(len(bias), layouts.LANES) - len(bias)))
    return values


def _kernels(name: str) -> str:
    return (TEMPLATES / name).read_text().rstrip()


def numbers(values: NDArray[np.generic] | Sequence[float]) -> str:
    """The rows of a C table."""
    array = np.asarray(values).reshape(-1)
    if array.dtype.kind == "f":
        texts = [float_literal(value) for value in array.astype(np.float32)]
        per_line = PER_LINE // 3
    else:
        texts = [str(value) for value in array.tolist()]
        per_line = PER_LINE
    lines = [", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line)]
    return ",\n".join(lines)
