"""A reader of pickles that imports nothing and calls nothing.

Classes and functions become their names, objects become records of what they would be made of, and NumPy arrays of
plain numbers are rebuilt from their bytes. The opcodes are those that `pickletools` of the standard library lists.
"""

import itertools
import pickletools
import struct
import warnings
from collections.abc import Callable
from typing import Any

from compression.imports.records import InertError, Record, Reference, describe, from_arguments, from_state

# What may be a key of a dictionary: the hash of anything else could recurse without end.
KEYS = (str, bytes, int, float, bool, type(None))
BROKEN = (ValueError, IndexError, KeyError, TypeError, OverflowError, StopIteration, struct.error)
# Policies and their statistics need some hundreds; only a file that was made to take long needs more.
MOST_STEPS = 100_000
MARK = object()
SET = "builtins.set"
RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor")


def read_inert(content: bytes) -> object:
    """What a pickle describes: plain values, lists, tuples and dicts of them, `Reference` and `Record`.

    Raises InertError for a damaged pickle, for opcodes that are not read, and for more than `MOST_STEPS` of them.
    """
    machine = Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in texts
            for opcode, argument, _ in itertools.islice(pickletools.genops(content), MOST_STEPS):
                machine.run(opcode.name, argument)
        if not machine.stopped:
            raise InertError(f"it has more than {MOST_STEPS} steps")
        return machine.result()
    except InertError:
        raise
    except BROKEN as error:
        raise InertError(f"damaged pickle: {error}") from error


class Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.stopped = False

    def run(self, opcode: str, argument: Any) -> None:
        """Do what one opcode says, without importing or calling."""
        if opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in LITERALS:
            self.stack.append(argument)
        elif opcode in ACTIONS:
            ACTIONS[opcode](self, argument)
        elif opcode not in IGNORED:
            raise InertError(f"opcode {opcode} is not read")
        self.stopped = opcode == "STOP"

    def result(self) -> object:
        """The one value that is left."""
        (value,) = self.stack
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """The newest values, the newest last."""
        values = self.stack[-count:]
        if len(values) < count or any(value is MARK for value in values):
            raise InertError("damaged pickle: too few values")
        del self.stack[-count:]
        return values

    def pop_mark(self) -> list[Any]:
        """What lies above the last mark."""
        at = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is MARK)
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def put(self, number: int) -> None:
        """Remember the newest value under a number."""
        self.memo[number] = self.stack[-1]

    def add(self, values: list[Any]) -> None:
        """Add items to the list, or to the record of a collection, on top."""
        top = self.stack[-1]
        items = top if isinstance(top, list) else _record(top).entries
        items.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Add keys and values in turn to the dictionary, or to the record of one, on top."""
        keys = [key if isinstance(key, KEYS) else Record(describe(key)) for key in values[::2]]
        pairs = zip(keys, values[1::2], strict=True)
        top = self.stack[-1]
        if isinstance(top, dict):
            top.update(pairs)
        else:
            _record(top).entries.extend(pairs)

    def reference(self, module: Any, name: Any) -> None:
        """Push a name instead of what it names."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise InertError("damaged pickle: a name is no text")
        self.push(Reference(f"{module}.{name}"))

    def make(self, maker: object, args: object) -> None:
        """Push the record of an object instead of making it."""
        name = describe(maker)
        if name == "_codecs.encode" and isinstance(args, tuple) and args[1:] == ("latin1",):
            # The bytes of pickles of protocol 2.
            self.push(str(args[0]).encode("latin-1"))
        elif name in ("builtins.bytes", "__builtin__.bytes") and args == ():
            self.push(b"")
        elif name in RECONSTRUCTORS and isinstance(args, tuple) and args:
            # The objects of protocols 0 and 1, by their class.
            self.push(Record(describe(args[0])))
        else:
            self.push(Record(name, args, array=from_arguments(name, args)))

    def make_with_keywords(self) -> None:
        """As `make`, with keyword arguments among its entries."""
        maker, args, keywords = self.pop(3)
        self.make(maker, args)
        self.add([keywords])

    def build(self) -> None:
        """Give the record on top its state."""
        (state,) = self.pop(1)
        record = _record(self.stack[-1])
        record.state = state
        if record.array is None:
            record.array = from_state(record.name, state)


def _record(value: object) -> Record:
    if isinstance(value, Record):
        return value
    raise InertError(f"damaged pickle: {describe(value)} has no state or entries")


def _dictionary(machine: Machine) -> None:
    values = machine.pop_mark()
    machine.push({})
    machine.set_items(values)


def _instance(machine: Machine, names: str) -> None:
    machine.make(Reference(names.replace(" ", ".")), tuple(machine.pop_mark()))


def _object(machine: Machine) -> None:
    maker, *args = machine.pop_mark()
    machine.make(maker, tuple(args))


IGNORED = ("PROTO", "FRAME", "STOP")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": MARK}
LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
}
ACTIONS: dict[str, Callable[[Machine, Any], object]] = {
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(Record(SET)),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "DICT": lambda machine, _: _dictionary(machine),
    "FROZENSET": lambda machine, _: machine.push(Record(SET, entries=machine.pop_mark())),
    "APPEND": lambda machine, _: machine.add(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.add(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "PUT": lambda machine, number: machine.put(number),
    "BINPUT": lambda machine, number: machine.put(number),
    "LONG_BINPUT": lambda machine, number: machine.put(number),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": lambda machine, number: machine.push(machine.memo[number]),
    "BINGET": lambda machine, number: machine.push(machine.memo[number]),
    "LONG_BINGET": lambda machine, number: machine.push(machine.memo[number]),
    "GLOBAL": lambda machine, names: machine.reference(*names.rsplit(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.reference(*machine.pop(2)),
    "INST": _instance,
    "OBJ": lambda machine, _: _object(machine),
    "NEWOBJ": lambda machine, _: machine.make(*machine.pop(2)),
    "NEWOBJ_EX": lambda machine, _: machine.make_with_keywords(),
    "REDUCE": lambda machine, _: machine.make(*machine.pop(2)),
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": lambda machine, _: machine.push(Record("persistent id")),
    "BINPERSID": lambda machine, _: machine.push(Record("persistent id", tuple(machine.pop(1)))),
}
