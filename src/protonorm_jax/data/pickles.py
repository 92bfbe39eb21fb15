"""Pickles of arrays, dicts, lists and numbers, read without running anything.

A pickle is a program for a machine with a stack. Python's own reader of it imports whatever the
program names and calls it. The one here knows the few things that numpy arrays consist of, by name,
and builds those itself; whatever else a program names is refused, and nothing of it is imported.

`pickletools.genops` splits the bytes into instructions; it executes nothing.
"""

import io
import pickletools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from protonorm_jax.data import checks, limits
from protonorm_jax.errors import UsageError

MAX_OBJECTS = 1_000_000
"""Instructions of a pickle, and values that it holds, each counted as often as it occurs."""

MAX_DEPTH = 32
"""Containers within each other."""

_DTYPE = re.compile(r"[<>=|]?([biuf][1248]|O[48]?)")
_RULE = "must hold arrays, dicts, lists and numbers only"
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PLAIN = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)


def load(content: bytes, place: str) -> Any:
    """Builds what a pickle holds, of any protocol, from Python 2 or 3 and numpy 1 or 2.

    Args:
      content: the pickle.
      place: what messages name.

    Returns:
      Arrays of numbers or of objects, dicts with plain keys, lists, tuples, numbers, strings,
      bytes and None, within each other. Strings of Python 2 are read as latin-1.

    Raises:
      UsageError: it is broken, holds anything else, itself, or more than the limits above.
    """
    with checks.reading(place), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of odd escapes in texts.
        try:
            value = _Machine(content, place).run()
        except (IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"a broken pickle ({error})") from error
    _check_nesting(value, place)
    return value


def by_name(values: dict[Any, Any]) -> dict[Any, Any]:
    """A dict whose keys are text, whichever Python wrote it."""
    return {
        key.decode("latin-1") if isinstance(key, bytes) else key: value
        for key, value in values.items()
    }


def numbers(value: Any) -> np.ndarray | None:
    """An array of numbers, or what a list of numbers makes; None of anything else."""
    if isinstance(value, list | tuple) and all(type(one) in (int, float) for one in value):
        value = np.array(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else None


class _Named:
    """What a pickle has named: one of the things that arrays consist of."""

    def __init__(self, make: Callable[..., Any] | None) -> None:
        self.make = make


class _Dtype:
    """An element type that a pickle builds, in two steps."""

    def __init__(self, text: str) -> None:
        self.value = np.dtype(text)


class _Machine:
    """The stack, what was memorised, and what may still be built."""

    def __init__(self, content: bytes, place: str) -> None:
        self._content = content
        self._place = place
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        # Bytes that calls may make. Honest pickles hold each array once, as bytes or, before
        # protocol 3, as a string that becomes bytes first.
        self._bytes_left = 2 * len(content) + 1024
        self._objects_left = 64
        array = _Named(None)
        self._array = array
        parts = {"_reconstruct": _Named(self._new_array), "scalar": _Named(self._scalar)}
        self._known: dict[str, _Named] = {
            "numpy ndarray": array,
            "numpy dtype": _Named(self._new_dtype),
            "_codecs encode": _Named(self._encode),
            "builtins bytes": _Named(self._empty_bytes),
            "__builtin__ bytes": _Named(self._empty_bytes),
        }
        for package in ("numpy.core", "numpy._core"):
            for name, part in parts.items():
                self._known[f"{package}.multiarray {name}"] = part
            self._known[f"{package}.numeric _frombuffer"] = _Named(self._from_buffer)

    def run(self) -> Any:
        """Executes the instructions and returns the value that is left."""
        for count, (instruction, argument, _) in enumerate(self._instructions()):
            if count >= MAX_OBJECTS:
                raise UsageError(f"{self._place} must hold at most {MAX_OBJECTS} values, got more")
            name = instruction.name
            if name == "STOP":
                (value,) = self._popped(1)
                if self._stack:
                    raise ValueError("values left over at the end of a pickle")
                return value
            if name in _PLAIN:
                self._stack.append(bytes(argument) if name == "BYTEARRAY8" else argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self._stack.append(_EMPTY[name]())
            else:
                self._step(name, argument)
        raise ValueError("a pickle without an end")

    def _instructions(self) -> Iterator[Any]:
        return pickletools.genops(io.BytesIO(self._content))

    def _step(self, name: str, argument: Any) -> None:
        """Executes an instruction that does more than push a value."""
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(f"nothing memorised as {argument}")
                stack.append(self._memo[argument])
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._popped(int(name[-1]))))
            case "LIST":
                stack.append(self._since_mark())
            case "APPEND" | "APPENDS":
                items = self._popped(1) if name == "APPEND" else self._since_mark()
                self._target(list).extend(items)
            case "DICT":
                items = self._since_mark()
                stack.append({})
                self._put(items)
            case "SETITEM" | "SETITEMS":
                self._put(self._popped(2) if name == "SETITEM" else self._since_mark())
            case "GLOBAL":
                stack.append(self._find(argument))
            case "STACK_GLOBAL":
                module, attribute = self._popped(2)
                if type(module) is not str or type(attribute) is not str:
                    raise ValueError(f"a {_kind(module)} and a {_kind(attribute)} as a name")
                stack.append(self._find(f"{module} {attribute}"))
            case "REDUCE":
                function, values = self._popped(2)
                stack.append(self._call(function, values))
            case "BUILD":
                (state,) = self._popped(1)
                self._build(stack[-1], state)
            case "INST":
                self._find(argument)
                self._refuse("an instance of a class")
            case _:
                self._refuse(f"the instruction {name}")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{self._place} {_RULE}, got {what}")

    def _popped(self, count: int) -> list[Any]:
        """The last values of the stack."""
        if len(self._stack) < count:
            raise ValueError("values missing from a pickle")
        values = self._stack[-count:]
        del self._stack[-count:]
        for value in values:
            if value is _MARK:
                raise ValueError("a mark in place of a value")
        return values

    def _since_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _target(self, kind: type) -> Any:
        """The container on top of the stack."""
        target = self._stack[-1]
        if type(target) is not kind:
            raise ValueError(f"a {_kind(target)} in place of a {kind.__name__}")
        return target

    def _put(self, items: list[Any]) -> None:
        """Puts keys and values into the dict on top of the stack."""
        target = self._target(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of anything that can be nested is computed recursively.
            if key is not None and type(key) not in (str, bytes, int, float, bool):
                self._refuse(f"a {_kind(key)} as a key")
            target[key] = value

    def _find(self, name: str) -> _Named:
        found = self._known.get(name)
        if found is None:
            self._refuse(_shown(name.replace(" ", ".", 1)))
        return found

    def _call(self, function: Any, values: Any) -> Any:
        if not isinstance(function, _Named) or function.make is None:
            self._refuse(f"a call of a {_kind(function)}")
        if type(values) is not tuple:
            raise ValueError("a call without arguments")
        return function.make(*values)

    def _spend(self, size: int) -> None:
        """Counts bytes that a call makes."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise UsageError(
                f"{self._place} must build at most twice its {len(self._content)} bytes, got more"
            )

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How bytes are written before protocol 3."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            self._refuse(f"_codecs.encode of a {_kind(text)} to {_shown(encoding)}")
        self._spend(len(text))
        return text.encode("latin-1")

    def _empty_bytes(self) -> bytes:
        return b""

    def _new_dtype(self, text: Any, *_: Any) -> _Dtype:
        text = text.decode("latin-1") if type(text) is bytes else text
        if type(text) is not str or not _DTYPE.fullmatch(text):
            self._refuse(f"an array of dtype {_shown(text)}")
        return _Dtype(text)

    def _new_array(self, kind: Any, *_: Any) -> np.ndarray:
        """An array that `_build` fills."""
        if kind is not self._array:
            self._refuse(f"a {_kind(kind)} as an array")
        self._spend(128)
        return np.empty(0)

    def _scalar(self, dtype: Any, raw: Any) -> Any:
        return self._numbers(np.empty(0), (), dtype, False, raw).item()

    def _from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """How arrays are written since protocol 5."""
        return self._numbers(np.empty(0), shape, dtype, order == "F", raw)

    def _numbers(
        self, target: np.ndarray, shape: Any, dtype: Any, by_column: bool, raw: Any
    ) -> np.ndarray:
        """Fills an array with numbers."""
        if type(dtype) is not _Dtype or dtype.value.hasobject:
            raise ValueError("an array of numbers without their dtype")
        if type(raw) is str:  # Of Python 2, and by a reader that knows no better.
            self._spend(len(raw))
            raw = raw.encode("latin-1")
        if type(raw) is not bytes:
            raise ValueError(f"an array made of a {_kind(raw)}")
        size = self._size(shape, dtype.value.itemsize)
        if size != len(raw):
            raise ValueError(f"an array of {len(raw)} bytes whose shape says {size}")
        self._spend(size)
        _fill(target, shape, dtype.value, by_column, raw)
        return target

    def _size(self, shape: Any, item_size: int) -> int:
        if type(shape) is not tuple or any(type(size) is not int for size in shape):
            raise ValueError("an array whose shape is no tuple of integers")
        return limits.num_bytes(self._place, shape, item_size)

    def _build(self, target: Any, state: Any) -> None:
        """Fills an array, or completes a dtype; both in place, as they may be memorised."""
        if type(target) is _Dtype and type(state) is tuple:
            self._complete(target, state)
        elif type(target) is np.ndarray and type(state) is tuple and len(state) == 5:
            self._fill_array(target, *state[1:])
        else:
            self._refuse(f"a state for a {_kind(target)}")

    def _complete(self, target: _Dtype, state: tuple[Any, ...]) -> None:
        """`(version, byte order, subtype, names, fields, ...)`."""
        if len(state) < 5 or any(part is not None for part in state[2:5]):
            self._refuse("an array of records")
        order = state[1].decode("latin-1") if type(state[1]) is bytes else state[1]
        if order not in ("<", ">", "=", "|"):
            raise ValueError("a dtype without a byte order")
        target.value = np.dtype(f"{order}{target.value.str[1:]}")

    def _fill_array(
        self, target: np.ndarray, shape: Any, dtype: Any, by_column: Any, raw: Any
    ) -> None:
        """`(version, shape, dtype, whether by column, bytes or list)`."""
        if type(dtype) is not _Dtype or type(by_column) not in (bool, int):
            raise ValueError("an array without a dtype")
        if target.dtype != np.float64 or target.shape != (0,):
            raise ValueError("an array that is filled twice")
        if dtype.value.hasobject:
            self._objects(target, shape, dtype.value, bool(by_column), raw)
        else:
            self._numbers(target, shape, dtype, bool(by_column), raw)

    def _objects(
        self, target: np.ndarray, shape: Any, dtype: np.dtype, by_column: bool, raw: Any
    ) -> None:
        """Fills an array with objects."""
        size = self._size(shape, 1)
        if type(raw) is not list or len(raw) != size:
            raise ValueError("an array of objects that is not filled")
        # They are freed recursively, and so must not be too deep within each other.
        self._objects_left -= 1
        if self._objects_left < 0:
            self._refuse("many arrays of objects")
        _fill(target, shape, dtype, by_column, raw)


def _fill(target: Any, shape: Any, dtype: np.dtype, by_column: bool, raw: Any) -> None:
    """Has numpy fill an empty array, in place, with a state whose parts have all been checked."""
    target.__setstate__((1, shape, dtype, by_column, raw))


def _kind(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, _Named):
        return "function"
    return type(value).__name__.strip("_").lower()


def _shown(value: Any) -> str:
    """A text for messages; of anything else its kind, as its text may have no end."""
    return limits.shown(value) if type(value) is str else f"a {_kind(value)}"


def _check_nesting(value: Any, place: str) -> None:
    """Refuses values that hold themselves, or that hold too much or too deep within each other.

    A container that occurs several times counts as often: whoever walks through the value meets it
    as often.
    """
    done: dict[int, tuple[int, int]] = {}  # Depth and number of values.
    active: set[int] = set()
    stack = [(value, False)]
    while stack:
        one, children_done = stack.pop()
        if children_done:
            parts = [done.get(id(child), (0, 1)) for child in _children(one)]
            depth = 1 + max((part[0] for part in parts), default=0)
            size = 1 + sum(part[1] for part in parts)
            if depth > MAX_DEPTH:
                raise UsageError(f"{place} must be nested at most {MAX_DEPTH} deep, got more")
            if size > MAX_OBJECTS:
                raise UsageError(f"{place} must hold at most {MAX_OBJECTS} values, got more")
            done[id(one)] = (depth, size)
            active.discard(id(one))
            continue
        if id(one) in done or not _is_container(one):
            if type(one) in (_Named, _Dtype) or one is _MARK:
                raise UsageError(f"{place} {_RULE}, got a {_kind(one)}")
            continue
        if id(one) in active:
            raise UsageError(f"{place} must not hold itself, got a {_kind(one)} that does")
        active.add(id(one))
        if len(active) > MAX_DEPTH:
            raise UsageError(f"{place} must be nested at most {MAX_DEPTH} deep, got more")
        stack.append((one, True))
        stack.extend((child, False) for child in _children(one))


def _is_container(value: Any) -> bool:
    return type(value) in (dict, list, tuple) or (
        type(value) is np.ndarray and value.dtype.hasobject
    )


def _children(value: Any) -> Any:
    if type(value) is dict:
        return value.values()
    return value.ravel().tolist() if type(value) is np.ndarray else value
