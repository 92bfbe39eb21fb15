"""The reader of pickles: what it builds, and that it runs nothing of the rest."""

import collections
import datetime
import io
import os
import pickle
import pickletools
import struct
import sys
import time

import numpy as np
import pytest

from protonorm_jax.data import pickles
from protonorm_jax.errors import UsageError

GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
NEW_NAMES, OLD_NAMES = b"numpy._core", b"numpy.core"


def same(one, other):
    """Equal in values, types, shapes and element types."""
    if isinstance(other, np.ndarray) and not other.dtype.hasobject:
        return (
            type(one) is np.ndarray
            and one.dtype == other.dtype.newbyteorder("=")
            and one.shape == other.shape
            and np.array_equal(one, other)
        )
    if isinstance(other, np.ndarray):
        return one.shape == other.shape and same(one.ravel().tolist(), other.ravel().tolist())
    if isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in other)
    if isinstance(other, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def boxed(value):
    array = np.empty((), object)
    array[()] = value
    return array


HONEST = {
    "numbers": [0, 255, 256, -1, 70_000, 2**31, -(2**63), 2**200, 1.5, True, False, None],
    "text": {"a": "b", b"c": b"\x00\xff", 1: "\u00fc\u6c34", None: "", 2: b""},
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, [[1], {"a": [2]}]],
    "by row": GRID,
    "by column": np.asfortranarray(GRID),
    "big-endian": GRID.astype(">f4"),
    "small": [GRID.astype(kind) for kind in ("u1", "i1", "i2", "u2", "i4", "i8", "f2", "f8", "?")],
    "empty": [np.zeros((0, 3)), np.zeros(0, np.int64), np.array(7)],
    "of objects": boxed({"x": GRID, "y": np.arange(3), "again": GRID}),
    "list of objects": np.array([GRID, None, "a"], object),
    "long": list(range(3000)),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", HONEST)
def test_honest_pickles_come_back(name, protocol):
    content = pickle.dumps(HONEST[name], protocol)
    assert same(pickles.load(content, "here"), pickle.loads(content))
    # As written by numpy 1; names have no lengths before protocol 4.
    if protocol < 4:
        content = content.replace(NEW_NAMES, OLD_NAMES)
        assert same(pickles.load(content, "here"), pickle.loads(content))


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_names_of_both_versions_of_numpy(module):
    content = pickletools.optimize(pickle.dumps(GRID, 5))
    new = b"\x8c\x12numpy._core.numeric"
    name = f"{module}.numeric".encode()
    assert new[:1] == b"\x8c" and b"numpy._core.numeric" in content
    old = content.replace(b"\x8c\x13numpy._core.numeric", b"\x8c" + bytes([len(name)]) + name)
    without_frame = old[:2] + old[11:]
    assert same(pickles.load(without_frame, "here"), GRID)


def test_scalars_of_numpy_become_numbers():
    values = [np.int64(-5), np.float32(0.5), np.bool_(True), np.float16(2)]
    for protocol in range(6):
        got = pickles.load(pickle.dumps(values, protocol), "here")
        assert got == [-5, 0.5, True, 2.0]
        assert [type(one) for one in got] == [int, float, bool, float]


def python_2(array, *, keys=(b"data", b"labels")):
    """As cPickle of Python 2 writes a dict of an array and a list, with strings of bytes."""
    shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"t"
    kind = array.dtype.str[1:].encode()
    raw = array.tobytes()
    return (
        b"\x80\x02}q\x01(U" + bytes([len(keys[0])]) + keys[0] + b"cnumpy.core.multiarray\n"
        b"_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rq\x02(K\x01" + shape + b"cnumpy\n"
        b"dtype\nU" + bytes([len(kind)]) + kind + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(raw))
        + raw
        + b"tbU"
        + bytes([len(keys[1])])
        + keys[1]
        + b"](K\x06K\x09eu."
    )


def test_pickles_of_python_2():
    array = np.arange(256, dtype=np.uint8).reshape(4, 64)
    got = pickles.load(python_2(array), "here")
    assert same(got, {"data": array, "labels": [6, 9]})


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *values):
        self.call = (function, values)

    def __reduce__(self):
        return self.call

    def __str__(self):  # By default with an address, which two processes do not share.
        return f"a call of {self.call[0].__name__}"


class Mine:
    pass


def refusal(content):
    with pytest.raises(UsageError) as caught:
        pickles.load(content, "FILE")
    message = str(caught.value)
    assert "\n" not in message and message.isascii() and len(message) < 400
    assert message.startswith("FILE")
    return message


RULE = "FILE must hold arrays, dicts, lists and numbers only, got "


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calls(os.system, "touch hit"), f"{os.name}.system"),
        (Calls(eval, "open('hit', 'w')"), ("builtins.eval", "__builtin__.eval")),
        (Calls(exec, "open('hit', 'w')"), ("builtins.exec", "__builtin__.exec")),
        (Calls(getattr, {}, "clear"), ("builtins.getattr", "__builtin__.getattr")),
        (Calls(open, "hit", "w"), ("io.open", "_io.open")),
        (Calls(np.load, "hit"), "numpy.load"),
        (os.system, f"{os.name}.system"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        ({1, 2}, ("builtins.set", "__builtin__.set", "the instruction EMPTY_SET")),
        (frozenset([1]), ("builtins.frozenset", "__builtin__.frozenset", "the instruction FROZ")),
        (1j, ("builtins.complex", "__builtin__.complex")),
        (np.ma.masked_array([1.0]), "numpy.ma"),
        (np.array(["a"]), "an array of dtype U1"),
        (np.array([1j]), "an array of dtype c16"),
        (np.zeros(2, [("a", "f4")]), "an array of dtype V4"),
        (np.array(["2020-01-01"], "M8[D]"), "an array of dtype M8"),
        (np.memmap, ("numpy.memmap", "numpy._core.memmap.memmap")),
    ],
    ids=str,
)
def test_anything_else_is_refused_by_name(value, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = (name,) if isinstance(name, str) else name
    for nested in (value, {"x": [value]}, boxed([value])):
        message = refusal(pickle.dumps(nested, protocol))
        assert message.startswith(RULE) and any(one in message for one in names), message
    assert not list(tmp_path.iterdir())


def test_classes_are_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("open('hit', 'w')\nclass Trap: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for content in (b"ctrap\nTrap\n.", b"(itrap\nTrap\n.", b"\x8c\x04trap\x8c\x04Trap\x93."):
        assert refusal(content) == RULE + "trap.Trap"
    assert "trap" not in sys.modules and not (tmp_path / "hit").exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
FLOAT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR"
OBJECT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR"
ENCODE = b"c_codecs\nencode\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Instructions that lead elsewhere.
        (b"\x82\x01.", RULE + "the instruction EXT1"),
        (b"\x83\x01\x00.", RULE + "the instruction EXT2"),
        (b"\x84\x01\x00\x00\x00.", RULE + "the instruction EXT4"),
        (b"P1\n.", RULE + "the instruction PERSID"),
        (b"K\x01Q.", RULE + "the instruction BINPERSID"),
        (b"\x97.", RULE + "the instruction NEXT_BUFFER"),
        (b"(c_codecs\nencode\no.", RULE + "the instruction OBJ"),
        (b"cnumpy\nndarray\n)\x81.", RULE + "the instruction NEWOBJ"),
        (b"cnumpy\nndarray\n)}\x92.", RULE + "the instruction NEWOBJ_EX"),
        (b"cnumpy\nndarray\nK\x05\x85R.", RULE + "a call of a function"),
        (b"K\x01)R.", RULE + "a call of a int"),
        (b"](R.", "a mark in place of a value"),
        (b"\x8c\x02os\x8c\x08a\nb\x1b[1m;\x93.", RULE + r"os.a\nb\x1b[1m;"),
        (b"\x8c\x02os\x8c\xff" + b"a" * 255 + b"\x93.", "aaa..."),
        (b"cnumpy.core.multiarray\nscalar.__class__\n.", RULE + "numpy.core.multiarray.scalar.__"),
        (b"c_codecs\nencode.__class__\n.", RULE + "_codecs.encode.__class__"),
        # States of what has none, or another one.
        (b"}}X\x01\x00\x00\x00aK\x01sb.", RULE + "a state for a dict"),
        (b"]}b.", RULE + "a state for a list"),
        (ENCODE + b"}b.", RULE + "a state for a function"),
        (b"cnumpy\nndarray\n}b.", RULE + "a state for a function"),
        (ARRAY + b"}b.", RULE + "a state for a ndarray"),
        (ARRAY + b"(K\x01K\x02\x85" + FLOAT + b"\x89C\x04aaaatb.", "4 bytes whose shape says 8"),
        (ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89C\x04aaaatb.", "none negative"),
        (ARRAY + b"(K\x01(" + b"K\x01" * 40 + b"t" + FLOAT + b"\x89C\x04aaaatb.", "8 dimensions"),
        (ARRAY + b"(K\x01K\x01" + FLOAT + b"\x89C\x04aaaatb.", "no tuple of integers"),
        (
            ARRAY + b"(K\x01G?\xf0\0\0\0\0\0\0\x85" + FLOAT + b"\x89C\x04aaaatb.",
            "tuple of integers",
        ),
        (
            ARRAY + b"(K\x01\x8a\x08" + b"\xff" * 7 + b"\x7f\x85" + FLOAT + b"\x89C\x04aaaatb.",
            "says 3",
        ),
        (ARRAY + b"(K\x01K\x01\x85" + FLOAT + b"\x89]tb.", "an array made of a list"),
        (ARRAY + b"(K\x01K\x01\x85" + OBJECT + b"\x89C\x08aaaaaaaatb.", "objects that is not fil"),
        (ARRAY + b"(K\x01K\x02\x85" + OBJECT + b"\x89](K\x01etb.", "objects that is not filled"),
        (ARRAY + b"(K\x01K\x01\x85K\x01\x89C\x04aaaatb.", "an array without a dtype"),
        (FLOAT + b"(K\x03X\x01\x00\x00\x00<NX\x01\x00\x00\x00aNtb.", RULE + "an array of records"),
        (FLOAT + b"(K\x03X\x01\x00\x00\x00?NNNtb.", "a dtype without a byte order"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00V4\x89\x88tR.", RULE + "an array of dtype V4"),
        (b"cnumpy\ndtype\n(}\x89\x88tR.", RULE + "an array of dtype a dict"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(K\x00K\x00\x85C\x01btR.", RULE + "a int as an "),
        (
            b"cnumpy.core.multiarray\nscalar\n(" + OBJECT + b"C\x08aaaaaaaatR.",
            "without their dtype",
        ),
        (
            ENCODE + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
            RULE + "_codecs.encode of a str to rot13",
        ),
        (
            ENCODE + b"X\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
            RULE + "_codecs.encode of a str to zip",
        ),
        (ENCODE + b"](K\x01e\x85R.", RULE + "_codecs.encode of a list to latin1"),
        (ENCODE + b"X\x03\x00\x00\x00\xe6\xb0\xb4\x85R.", "UnicodeEncodeError"),
        # What is left as a value must be one.
        (ENCODE + b".", RULE + "a function"),
        (b"](cnumpy\nndarray\ne.", RULE + "a function"),
        (FLOAT + b".", RULE + "a dtype"),
        (b"(.", "a mark in place of a value"),
        (b"K\x01K\x02.", "values left over"),
        # Keys.
        (b"}](K\x01eK\x01s.", RULE + "a list as a key"),
        (b"})K\x01s.", RULE + "a tuple as a key"),
        # Broken ones.
        (b"", "must be readable"),
        (b"K", "must be readable"),
        (b"K\x01", "must be readable"),
        (b".", "must be readable"),
        (b"0.", "must be readable"),
        (b"h\x05.", "nothing memorised as 5"),
        (b"K\x01K\x02a.", "a int in place of a list"),
        (b"}(K\x01u.", "a key without a value"),
        (b"\xff.", "must be readable"),
        (b"I" + b"9" * 10_000 + b"\n.", "must be readable"),
        (b"B\xff\xff\xff\x7fab.", "must be readable"),
        (b"\x8e" + b"\xff" * 7 + b"\x7fab.", "must be readable"),
        (b"\x96" + b"\xff" * 7 + b"\x7fab.", "must be readable"),
        (b"\x8b\xff\xff\xff\x7fab.", "must be readable"),
    ],
)
def test_hostile_and_broken_pickles(content, message):
    assert message in refusal(content)


def nested(count, begin, end=b""):
    return begin * count + end * count


BIG = 10_000_000
LAUGHS = b"]q\x000" + b"(h\x00h\x00lq\x000" * 30 + b"h\x00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"]q\x00h\x00a.", "must not hold itself, got a list"),
        (b"}q\x00K\x01h\x00s.", "must not hold itself, got a dict"),
        (b"]q\x00h\x00\x85q\x01a.", "must not hold itself"),
        (b"]q\x00" + ARRAY + b"(K\x01)" + OBJECT + b"\x89h\x00tb0h\x00.", "not filled"),
        (nested(100, b"]", b"a")[:-1] + b".", "nested at most 32 deep"),
        (b"N" + b"\x85" * 200_000 + b".", "nested at most 32 deep"),
        (nested(100_000, b"]") + b"a" * 99_999 + b".", "must be nested at most 32 deep"),
        (
            b"]q\x00" + b"0h\x00\x85q\x00" * 50_000 + b".",
            "must be nested at most 32 deep",
        ),
        (b"N" * 1_000_001 + b".", "must hold at most 1000000 values"),
        # A list of two lists of two lists ...: small here, more than all memory for a reader.
        (
            LAUGHS + b".",
            "1000000 val",
        ),
        # Neither is it written out.
        (LAUGHS + b"0cnumpy\ndtype\n(h\x00\x89\x88tR.", "an array of dtype a list"),
        (
            LAUGHS + b"0" + ENCODE + b"X\x01\x00\x00\x00ah\x00\x86R.",
            "_codecs.encode of a str to a li",
        ),
        (LAUGHS + b"0h\x00h\x00\x93.", "a list and a list as a name"),
        (LAUGHS + b"0}h\x00K\x01s.", "a list as a key"),
        (b"\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b"\x85K\x01b.", "a state for a tuple"),
        # Nothing of these is as large as it says.
        (b"K\x01r\xff\xff\xff\xff.", None),
        (b"K\x01p4294967295\n.", None),
        (ENCODE + b"X\x80\x96\x98\x00" + b"a" * BIG + b"\x85q\x000q\x01]" + b"", "readable"),
    ],
)
def test_bombs_end_quickly(content, message):
    began = time.process_time()
    if message is None:
        assert pickles.load(content, "FILE") == 1
    else:
        assert message in refusal(content)
    assert time.process_time() - began < 10


def test_calls_do_not_multiply_bytes():
    text = b"X" + struct.pack("<i", 1_000_000) + b"a" * 1_000_000
    many = text + b"q\x000" + b"](" + (ENCODE + b"h\x00\x85R") * 1000 + b"e."
    assert "must build at most twice its" in refusal(many)
    raw = b"B" + struct.pack("<i", 1_000_000) + b"a" * 1_000_000 + b"q\x000"
    arrays = (
        ARRAY + b"(K\x01J" + struct.pack("<i", 250_000) + b"\x85" + FLOAT + b"\x89h\x00tb"
    ) * 99
    assert "must build at most twice its" in refusal(raw + b"](" + arrays + b"e.")
    # Freed recursively, these would end the interpreter.
    chain = b"N" + (b"q\x00" + ARRAY + b"(K\x01K\x01\x85" + OBJECT + b"\x89](h\x00etb") * 20_000
    assert RULE + "many arrays of objects" in refusal(chain + b".")


def test_every_cut_of_a_pickle_is_refused():
    content = pickle.dumps({"x": GRID, "y": [1, 2]}, 4)
    for keep in range(len(content)):
        refusal(content[:keep])


def test_no_change_of_a_byte_raises_anything_else():
    generator = np.random.default_rng(0)
    for protocol in (2, 4, 5):
        content = pickle.dumps(boxed({"x": GRID, "y": np.arange(3), "z": [1, "a"]}), protocol)
        for _ in range(2000):
            changed = bytearray(content)
            for place in generator.integers(len(content), size=generator.integers(1, 4)):
                changed[place] = generator.integers(256)
            try:
                pickles.load(bytes(changed), "FILE")
            except UsageError as error:
                assert "\n" not in str(error)


def test_what_is_read_never_reaches_pickle(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("unpickled")

    content = io.BytesIO()
    pickle.dump(HONEST["of objects"], content)
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert pickles.load(content.getvalue(), "here").shape == ()
