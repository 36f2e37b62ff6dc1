"""What stands for the objects of a pickle that are not made: names, records, and arrays rebuilt from their bytes."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBER = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
MAX_DIMENSIONS = 8
NUMPY = ("numpy.core.", "numpy._core.")


class InertError(ValueError):
    """A pickle that is damaged or uses what is not read here."""


@dataclass(frozen=True)
class Reference:
    """A class or function by its name, which was not imported."""

    name: str


@dataclass(eq=False, repr=False)
class Record:
    """An object that was not made."""

    name: str
    """Of its class, or of the function that would have made it."""
    args: object = ()
    state: object = None
    entries: list[Any] = field(default_factory=list)
    """Items that would have been added to it; pairs, if it is a dictionary."""
    array: NDArray[Any] | None = None
    """Its numbers, if it is an array or a scalar of NumPy."""

    def attribute(self, name: str) -> Any:
        """An attribute of its state. Raises KeyError where it has none of that name."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        if not isinstance(state, dict):
            raise KeyError(name)
        return state[name]


def describe(value: object) -> str:
    """A short name of a value of an inert pickle."""
    if isinstance(value, Record) and value.name.endswith("._make_skeleton_class") and isinstance(value.args, tuple):
        # cloudpickle's word for a class of a script; its name is the second argument.
        return f"{next(iter(value.args[1:2]), 'a class')} of the training script"
    if isinstance(value, Record) and value.name.endswith("._make_function"):
        return "a function of the training script"
    if isinstance(value, Reference | Record):
        return value.name
    return type(value).__name__


def array_of(value: object) -> NDArray[Any]:
    """The numbers of an array, a scalar or a plain number. Raises InertError for anything else."""
    if isinstance(value, Record) and value.array is not None:
        return value.array
    if isinstance(value, int | float):
        return np.asarray(value)
    raise InertError(f"{describe(value)} is no array of numbers")


def from_arguments(name: str, args: object) -> NDArray[Any] | None:
    """The array that a function of NumPy would make of its arguments; None for any other function."""
    if not isinstance(args, tuple):
        return None
    if name in _names("numeric._frombuffer") and len(args) == 4:
        content, dtype, shape, order = args
        return _array(content, dtype, shape, order)
    if name in _names("multiarray.scalar") and len(args) == 2:
        dtype, content = args
        return _array(content, dtype, (), "C")
    return None


def from_state(name: str, state: object) -> NDArray[Any] | None:
    """The array whose state follows the function that makes an empty one; None for any other record."""
    if name not in _names("multiarray._reconstruct") or not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, dtype, fortran, content = state
    return _array(content, dtype, shape, "F" if fortran is True else "C")


def _names(function: str) -> tuple[str, ...]:
    """The names that a function of NumPy has in its versions."""
    return tuple(prefix + function for prefix in NUMPY)


def _array(content: object, dtype: object, shape: object, order: object) -> NDArray[Any] | None:
    """The array of some bytes; None where they are not plain numbers of that type and shape."""
    numbers = _dtype(dtype)
    if isinstance(content, str):
        content = content.encode("latin-1")
    if numbers is None or not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
        return None
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        return None
    if len(content) != math.prod(shape) * numbers.itemsize or order not in ("C", "F"):
        return None
    flat = np.frombuffer(content, numbers).copy()
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _dtype(record: object) -> np.dtype[Any] | None:
    """The type of numbers that a record of `numpy.dtype` names; None for objects, texts and structures."""
    if not isinstance(record, Record) or record.name != "numpy.dtype" or not isinstance(record.args, tuple):
        return None
    code = record.args[0] if record.args else None
    if not isinstance(code, str) or not NUMBER.fullmatch(code):
        return None
    dtype = np.dtype(code)
    big_endian = isinstance(record.state, tuple) and record.state[1:2] == (">",)
    return dtype.newbyteorder(">") if big_endian else dtype
