"""Pickles that are read without importing or calling anything, hostile ones among them."""

import contextlib
import os
import pickle
import pickletools
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.imports.inert import read_inert
from compression.imports.records import InertError, Record, Reference, array_of


class Runs:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class WithState:
    """Runs its __setstate__ when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["path"].touch()


PLAIN = {
    "numbers": [1, -1, 2**70, 1.5, True, None, 300, 70_000],
    "text": ("a", "ä\n", b"\x00\xff", bytearray(b"xy")),
    "nested": {"a": {"b": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}, 3: {}},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
class TestValues:
    def test_plain_values_are_themselves(self, protocol: int) -> None:
        values = dict(PLAIN)
        if protocol < 5:
            values["text"] = ("a", "ä\n", b"\x00\xff")
        assert read_inert(pickle.dumps(values, protocol)) == values

    def test_arrays_of_numbers_are_rebuilt(self, protocol: int) -> None:
        arrays: list[Any] = [
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
            np.array([True, False]),
            np.array(7, np.int8),
            np.float32(2.5),
            np.zeros((0, 3)),
        ]
        read: Any = read_inert(pickle.dumps(arrays, protocol))
        for array, record in zip(arrays, read, strict=True):
            np.testing.assert_array_equal(array_of(record), array)
            assert array_of(record).dtype == array.dtype

    def test_objects_and_texts_in_arrays_stay_records(self, protocol: int) -> None:
        for array in (np.array([Runs(print, 1)], object), np.array(["a"]), np.array([(1,)], [("a", "i4")])):
            with pytest.raises(InertError, match="no array of numbers"):
                array_of(read_inert(pickle.dumps(array, protocol)))

    def test_classes_and_objects_are_names_and_records(self, protocol: int, tmp_path: Path) -> None:
        read: Any = read_inert(pickle.dumps([WithState, WithState(tmp_path), OrderedDict(a=1), {1, 2}], protocol))
        assert read[0] == Reference("tests.compression.test_inert.WithState")
        assert all(isinstance(record, Record) for record in read[1:])
        if protocol >= 2:
            assert read[1].name.endswith(".WithState")
            assert read[1].attribute("path").name in ("pathlib.PosixPath", "pathlib._local.PosixPath")


HOSTILE = {
    "os.system": lambda marker: pickle.dumps(Runs(os.system, f"touch {marker}")),
    "subprocess": lambda marker: pickle.dumps(Runs(subprocess.call, ["touch", str(marker)])),
    "eval": lambda marker: pickle.dumps(Runs(eval, f"open({str(marker)!r}, 'w')"), 0),
    "exec": lambda marker: pickle.dumps(Runs(exec, f"open({str(marker)!r}, 'w')"), 2),
    "setstate": lambda marker: pickle.dumps(WithState(marker)),
    "in an array": lambda marker: pickle.dumps(np.array([Runs(Path.touch, marker)], object)),
    "instance": lambda marker: f"(S'touch {marker}'\nios\nsystem\n.".encode(),
    "object": lambda marker: b"(cos\nsystem\nS'touch " + str(marker).encode() + b"'\no.",
    "getattr": lambda marker: pickle.dumps(Runs(getattr, Runs(__import__, "os"), "system")),
    "build": lambda marker: b"cos\nenviron\n}S'X'\nS'" + str(marker).encode() + b"'\nsb.",
}


class TestHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_nothing_is_run(self, kind: str, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        with contextlib.suppress(InertError):
            read_inert(HOSTILE[kind](marker))
        assert not marker.exists()
        assert "X" not in os.environ

    def test_nothing_is_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Trap: pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert read_inert(b"ctrap\nTrap\n.") == Reference("trap.Trap")
        assert "trap" not in sys.modules
        assert not (tmp_path / "ran").exists()

    def test_damaged_pickles_are_one_error(self) -> None:
        whole = pickle.dumps({"a": np.arange(3.0), "b": [types.SimpleNamespace(x=1), {1: (2, 3)}]})
        generator = np.random.default_rng(0)
        for _ in range(2000):
            broken = bytearray(whole)
            for place in generator.integers(0, len(whole), 3):
                broken[place] = generator.integers(0, 256)
            with contextlib.suppress(InertError):
                read_inert(bytes(broken[: generator.integers(1, len(whole) + 1)]))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"text",
            b"}.." + b"x",
            b"]" * 3 + b".",
            b"h\x05.",
            b"N(t" * 10 + b".",
            b"\x82\x01.",
            b"P1\n" + b"(" * 9,
            b"](" + b"(" * 100_000 + b"t" * 100_000 + b"}" + b"s.",
            b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
        ],
    )
    def test_odd_programs_end(self, content: bytes) -> None:
        with contextlib.suppress(InertError):
            read_inert(content)

    def test_a_pickle_that_was_made_to_take_long_is_refused(self) -> None:
        with pytest.raises(InertError, match="it has more than 100000 steps"):
            read_inert(b")" + b"\x85" * 10_000_000 + b".")

    def test_odd_escapes_are_no_warning(self) -> None:
        assert read_inert(b"S'\\q'\n.") == "\\q"

    def test_a_pickle_that_asks_to_grow_stays_small(self) -> None:
        """Lists of lists by the memo: what stands for them is shared, not copied."""
        again = (b"q%c0](h%ch%ce" % (i, i, i) for i in range(60))
        bomb = b"]" + b"".join(again)
        assert isinstance(read_inert(bomb + b"."), list)

    def test_all_opcodes_are_read_or_refused(self) -> None:
        from compression.imports.inert import ACTIONS, CONSTANTS, IGNORED, LITERALS

        known = {*ACTIONS, *CONSTANTS, *IGNORED, *LITERALS}
        refused = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
        assert {opcode.name for opcode in pickletools.opcodes} == known | refused
