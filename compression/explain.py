"""What an artifact says of itself to people who have nothing of rlc: names, units, origin, and a few lines that act."""

from typing import Any

from compression.onnx_export import INPUT, OUTPUT
from trainers.envs.spec import EnvSpec

README_FILE = "README.md"


def interface(spec: EnvSpec) -> dict[str, Any]:
    """Names, shapes and units of what goes into policy.onnx and comes out."""
    return {
        "input": {
            "name": INPUT,
            "shape": ["batch", spec.obs_dim],
            "dtype": "float32",
            "batch_axis": 0,
            "units": "as the environment gives it: normalisation is inside",
        },
        "output": {
            "name": OUTPUT,
            "shape": ["batch", spec.act_dim],
            "dtype": "float32",
            "batch_axis": 0,
            "units": "as the environment takes it, inside its bounds: scaling and clipping are inside",
        },
    }


def readme(contract: dict[str, Any]) -> str:
    """README.md of an artifact, from its policy.json, which has an `interface`."""
    environment = contract["environment"]
    made = [repr(environment["id"]), *(f"{key}={value!r}" for key, value in environment.get("kwargs", {}).items())]
    ports = [_port(word, contract["interface"][word]) for word in ("input", "output")]
    method = contract["compression"]["method"]
    lines = [
        f"# A policy for {environment['id']}: {contract['algorithm']}, {method}",
        "",
        "With NumPy, ONNX Runtime and the environment, in this folder:",
        "",
        "```python",
        "import gymnasium",
        "import numpy as np",
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("policy.onnx")',
        f"env = gymnasium.make({', '.join(made)})",
        "observation, _ = env.reset(seed=0)",
        f'(action,) = session.run(["{OUTPUT}"], {{"{INPUT}": np.array([observation], np.float32)}})',
        "observation, reward, terminated, truncated, _ = env.step(action[0])",
        "```",
        "",
        *ports,
        f"- Where it came from: {_origin(contract.get('origin', {}))}",
        "- `policy.onnx` is the policy, `policy.safetensors` the same weights by name, `policy.json` the contract:",
        "  bounds, versions, hashes, and observations with the actions that must come out (`golden`).",
    ]
    return "\n".join(lines) + "\n"


def _port(word: str, port: dict[str, Any]) -> str:
    batch, size = port["shape"]
    return f"- {word.capitalize()} `{port['name']}`: {port['dtype']} [{batch}, {size}], {port['units']}."


def _origin(origin: dict[str, Any]) -> str:
    said = [f"{key} {value}" for key, value in origin.items() if value is not None]
    return f"{', '.join(said)}." if said else "not recorded."
