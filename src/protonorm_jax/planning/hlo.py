"""What a compiled program computes and moves, counted from its text: XLA's HLO.

The compiler's own count takes every loop for one turn of it, and knows neither which arrays lie in
a chip's fast memory nor that arrays are padded to tiles. Here each of the engine's loops is counted
apart, for one turn; others are multiplied out.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from protonorm_jax import scopes


class Cost(NamedTuple):
    """What is computed and moved.

    Attributes:
      flops: floating-point operations; a multiplication and an addition of a product are two.
      bytes: read from and written to the main memory of a device, paddings of tiles included.
      cycles: of a core's clock, as the compiler estimates them; zero where it does not.
    """

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """The sum with so many of the other."""
        pairs = zip(self, other, strict=True)
        return Cost(*(own + times * further for own, further in pairs))


class Counted(NamedTuple):
    """A program, counted.

    Attributes:
      by_loop: of one turn of each of the engine's loops, those within it apart; None for what is in
        none of them.
      uncounted: how many loops there are whose length neither their name nor their end tells; each
        is taken for one turn.
    """

    by_loop: dict[scopes.Loop | None, Cost]
    uncounted: int


class Argument(NamedTuple):
    """What a program is given.

    Attributes:
      number: of all that jax is given, of which it leaves out what the program does not need.
      layout: its shape, the order of its dimensions and its tiles, as XLA writes them.
      bytes: in main memory, paddings of tiles included.
      own_bytes: those without paddings.
    """

    number: int
    layout: str
    bytes: int
    own_bytes: int


class _Array(NamedTuple):
    """The shape of an array in a program: its bytes are those in main memory, paddings included."""

    dtype: str
    dims: tuple[int, ...]
    bytes: float

    def size(self) -> int:
        return math.prod(self.dims)


class _Instruction(NamedTuple):
    """One line of a program."""

    name: str
    root: bool
    arrays: tuple[_Array, ...]
    opcode: str
    operands: tuple[str, ...]
    given: str
    attributes: str

    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    def size(self) -> int:
        return sum(array.size() for array in self.arrays)


class _Computation(NamedTuple):
    """A part of a program: its instructions by name, and which of them is the result."""

    instructions: dict[str, _Instruction]
    root: _Instruction


_HEAD = re.compile(r"(ENTRY )?%?([^\s(]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([^\s=]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_GIVEN = re.compile(r'= (\S+) parameter\((\d+)\)(?:.*op_name="\w+\[(\d+)\]")?')
_NAME = re.compile(r"%([^\s,()]+)")
_BITS = re.compile(r"\d+")
_PARENTHESIS = re.compile(r"[()]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_CYCLES = 2**62  # From here on a number stands for none, as the greatest of 64 bits does.
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# They name a place, or are done with what an earlier operation has begun.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "domain"),
}
# Of these one number takes one operation; sign bits and choices take none.
_ARITHMETIC = {
    *("add", "subtract", "multiply", "divide", "power", "exponential", "exponential-minus-one"),
    *("log", "log-plus-one", "logistic", "tanh", "sqrt", "rsqrt", "cbrt", "sine", "cosine", "tan"),
    *("atan2", "erf", "maximum", "minimum", "negate", "abs", "floor", "ceil", "remainder"),
}
_REDUCING = {"reduce", "reduce-window", "select-and-scatter", "all-reduce", "reduce-scatter"}
_SLICING = {"dynamic-slice", "slice", "gather"}


def count(text: str) -> Counted:
    """Counts a program.

    Args:
      text: of a compiled one, `jax.stages.Compiled.as_text()`.
    """
    computations, entry = _parse(text)
    counter = _Counter(computations)
    own = counter.of(entry)
    by_loop: dict[scopes.Loop | None, Cost] = {None: own.cost}
    for loop, cost in own.loops.items():
        by_loop[loop] = by_loop.get(loop, Cost()).plus(cost)
    return Counted(by_loop, counter.uncounted)


def arguments(text: str) -> list[Argument]:
    """What a program is given of what it needs.

    Args:
      text: see `count`.
    """
    found = []
    for parameter in _GIVEN.finditer(text, text.index("\nENTRY ")):
        layout, place, number = parameter.groups()
        (one,) = _arrays(layout)
        own = int(one.size() * _bytes_of_one(one.dtype))
        found.append(Argument(int(number or place), layout, int(one.bytes), own))
    return sorted(found)


class _Parts(NamedTuple):
    """The cost of a computation, and of one turn of each of the engine's loops in it."""

    cost: Cost
    loops: dict[scopes.Loop, Cost]


class _Counter:
    """Counts computations, each once.

    Attributes:
      uncounted: see `Counted`.
    """

    def __init__(self, computations: Mapping[str, _Computation]) -> None:
        self._computations = computations
        self._known: dict[str, _Parts] = {}
        self.uncounted = 0

    def of(self, name: str) -> _Parts:
        """The cost of a computation."""
        if name not in self._known:
            computation, cost = self._computations[name], Cost()
            loops: dict[scopes.Loop, Cost] = {}
            for one in computation.instructions.values():
                part = self._of_instruction(one, computation)
                cost = cost.plus(part.cost)
                loops = _joined(loops, part.loops)
            self._known[name] = _Parts(cost, loops)
        return self._known[name]

    def _of_instruction(self, one: _Instruction, within: _Computation) -> _Parts:
        if one.opcode == "while":
            return self._of_loop(one)
        if one.opcode == "conditional":  # The dearest of its branches.
            branches = [self.of(name) for name in _called(one, "branch_computations")]
            branches += [self.of(name) for name in _called(one, r"(?:true|false)_computation")]
            return max(branches, key=lambda part: part.cost)
        if one.opcode in ("call", "async-start"):
            (name,) = _called(one, "to_apply") or _called(one, "calls")
            return self.of(name)
        estimated = _CYCLES.search(one.attributes)
        cycles = float(estimated[1]) if estimated and int(estimated[1]) < _NO_CYCLES else 0.0
        if one.opcode == "fusion":
            (name,) = _called(one, "calls")
            moved = _fusion_bytes(one, within, self._fused(one))
            return _Parts(Cost(self._flops(name), moved, cycles), {})
        return _Parts(Cost(_flops(one, within), _bytes(one, within), cycles), {})

    def _of_loop(self, one: _Instruction) -> _Parts:
        """One turn if it is one of the engine's, else all of them."""
        (body,), (condition,) = _called(one, "body"), _called(one, "condition")
        part = self.of(body)
        named = _OP_NAME.search(one.attributes)
        told = scopes.read(named[1]) if named else None
        if isinstance(told, scopes.Loop):
            return _Parts(Cost(), _joined({told: part.cost}, part.loops))
        known = _TRIPS.search(one.attributes)
        times = told or (int(known[1]) if known else self._limit(condition))
        if times is None:
            self.uncounted += 1
            times = 1
        return _Parts(Cost().plus(part.cost, times), part.loops)

    def _limit(self, condition: str) -> int | None:
        """How often a loop goes round at most, from the number that its counter is held against."""
        for one in self._computations[condition].instructions.values():
            computation, constants = self._computations[condition], {}
            if one.opcode == "fusion":
                computation, outer = self._fused(one), computation
                constants = {
                    name: outer.instructions[one.operands[number]]
                    for name, number in _parameters(computation).items()
                }
            for compared in computation.instructions.values():
                if compared.opcode != "compare" or "direction=LT" not in compared.attributes:
                    continue
                name = compared.operands[1]
                limit = constants.get(name, computation.instructions[name])
                if limit.opcode == "constant" and limit.given.lstrip("-").isdigit():
                    return int(limit.given)
        return None

    def _fused(self, one: _Instruction) -> _Computation:
        (name,) = _called(one, "calls")
        return self._computations[name]

    def _flops(self, name: str) -> float:
        """The floating-point operations of a fused computation."""
        computation, total = self._computations[name], 0.0
        for one in computation.instructions.values():
            if one.opcode in ("fusion", "call"):
                (inner,) = _called(one, "calls") or _called(one, "to_apply")
                total += self._flops(inner)
            else:
                total += _flops(one, computation)
        return total


def _joined(some: dict[scopes.Loop, Cost], others: Mapping[scopes.Loop, Cost]) -> dict:
    """Both, the costs of loops in both added up: it is the compiler that has divided them."""
    for loop, cost in others.items():
        some[loop] = some.get(loop, Cost()).plus(cost)
    return some


def _flops(one: _Instruction, within: _Computation) -> float:
    """The floating-point operations of an instruction."""
    if one.opcode == "dot":
        contracted = _numbers(one.attributes, "lhs_contracting_dims")
        dims = within.instructions[one.operands[0]].arrays[0].dims
        return 2.0 * one.size() * math.prod(dims[axis] for axis in contracted)
    if one.opcode == "convolution":
        return _convolution_flops(one, within)
    given = within.instructions.get(one.operands[0]) if one.operands else None
    floating = [array for array in one.arrays if array.dtype[0] in "fb" or array.dtype[0] == "c"]
    if not floating:
        return 0.0
    if one.opcode in _ARITHMETIC:
        return float(one.size())
    if one.opcode in _REDUCING and given:
        window = re.search(r"window=\{size=([\dx]+)", one.attributes)
        if window:
            return float(one.size() * math.prod(map(int, window[1].split("x"))))
        return float(given.size())
    return 0.0


def _convolution_flops(one: _Instruction, within: _Computation) -> float:
    """Two for each product; those with the holes and borders of dilation and padding are none."""
    left, right = (within.instructions[name].arrays[0].dims for name in one.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels, one.attributes
    window = re.search(r"window=\{([^}]*)\}", one.attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    out = one.arrays[0].dims
    products = float(
        out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    )
    for axis in range(len(out) - 2):
        name = str(axis)

        def number(field: str, default: int, axis: int = axis) -> int:
            return int(fields[field].split("x")[axis]) if field in fields else default

        low = int(fields["pad"].split("x")[axis].split("_")[0]) if "pad" in fields else 0
        taken = np.arange(out[labels[3].index(name)])[:, None] * number("stride", 1)
        taken = taken + np.arange(right[labels[2].index(name)]) * number("rhs_dilate", 1) - low
        holes = number("lhs_dilate", 1)
        last = (left[labels[1].index(name)] - 1) * holes
        products *= int(((taken >= 0) & (taken <= last) & (taken % holes == 0)).sum())
    return 2.0 * products


def _bytes(one: _Instruction, within: _Computation) -> float:
    """What an instruction outside of a fusion reads and writes."""
    if one.opcode in _FREE or one.opcode.endswith("-done"):
        return 0.0
    operands = [within.instructions[name] for name in one.operands if name in within.instructions]
    if one.opcode in _SLICING:
        return 2 * one.bytes() + sum(index.bytes() for index in operands[1:])
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes()
    if one.opcode == "scatter":
        return 2 * operands[2].bytes() + operands[1].bytes()
    if one.opcode.endswith("-start") and len(one.arrays) >= 2 * len(operands):
        # Its result names where it comes from, and where it goes.
        return sum(array.bytes for array in one.arrays[: 2 * len(operands)])
    if one.opcode == "custom-call" and not any(given.bytes() for given in operands):
        return 0.0  # It makes room, or tells the compiler something.
    return one.bytes() + sum(given.bytes() for given in operands)


def _fusion_bytes(one: _Instruction, within: _Computation, fused: _Computation) -> float:
    """What a fusion reads and writes: of what it slices, and of what it updates, those parts."""
    users: dict[str, list[_Instruction]] = {}
    for inner in fused.instructions.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    total = 0.0
    written = _written(fused.root, fused)
    places = _parameters(fused)
    for name, number in places.items():
        given = within.instructions[one.operands[number]].bytes()
        uses = users.get(_through_bitcasts(name, users), [])
        if given and uses and all(use.opcode in _SLICING for use in uses):
            # The slices lie in registers; their own padding is as that of what they are cut from.
            whole = fused.instructions[name].size() or 1
            given = min(given, given * sum(use.size() for use in uses) / whole)
        elif uses and all(use.opcode == "dynamic-update-slice" for use in uses):
            updated = [use for use in uses if use.operands[0] == _through_bitcasts(name, users)]
            given = 0.0 if len(updated) == len(uses) else given
        total += given
    for result, array in zip(written, one.arrays, strict=False):
        part = array.bytes
        if result.opcode == "dynamic-update-slice":
            update = fused.instructions[result.operands[1]]
            part = part * update.size() / (result.size() or 1)
        total += part
    return total


def _written(root: _Instruction, fused: _Computation) -> list[_Instruction]:
    """What makes each of the results of a fusion."""
    results = [fused.instructions[name] for name in root.operands]
    results = results if root.opcode == "tuple" else [root]
    found = []
    for one in results:
        while one.opcode == "bitcast":
            one = fused.instructions[one.operands[0]]
        found.append(one)
    return found


def _through_bitcasts(name: str, users: Mapping[str, list[_Instruction]]) -> str:
    """The last of the names under which something goes by bitcasts alone."""
    while len(users.get(name, [])) == 1 and users[name][0].opcode == "bitcast":
        name = users[name][0].name
    return name


def _parameters(computation: _Computation) -> dict[str, int]:
    """By name, the numbers of its parameters."""
    return {
        name: int(one.given)
        for name, one in computation.instructions.items()
        if one.opcode == "parameter"
    }


def _called(one: _Instruction, attribute: str) -> list[str]:
    """The names of computations in an attribute."""
    found = re.findall(rf"\b{attribute}=(?:\{{([^}}]*)\}}|%?([^\s,]+))", one.attributes)
    return [
        name.strip().removeprefix("%")
        for several, single in found
        for name in (several.split(",") if several else [single])
    ]


def _numbers(attributes: str, name: str) -> list[int]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", attributes)
    return [int(one) for one in found[1].split(",") if one] if found else []


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    """The computations by name, and the name of the one that is run."""
    computations: dict[str, _Computation] = {}
    entry = name = ""
    lines: dict[str, _Instruction] = {}
    for line in text.splitlines():
        if line.startswith("}"):
            if name:
                root = next((one for one in lines.values() if one.root), None)
                computations[name] = _Computation(lines, root or next(reversed(lines.values())))
            name = ""
        elif not line.startswith(" "):
            head = _HEAD.match(line)
            if head:
                name, lines = head[2], {}
                entry = name if head[1] else entry
        elif name:
            one = _instruction(line)
            if one:
                lines[one.name] = one
    return computations, entry


def _instruction(line: str) -> _Instruction | None:
    """One line, read."""
    found = _LINE.match(line)
    if not found:
        return None
    root, name, rest = found.groups()
    end = _closed(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    opcode, rest = rest[:opened], rest[opened:]
    end = _closed(rest)
    given, attributes = rest[1 : end - 1], rest[end:]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(given))
    return _Instruction(
        name, bool(root), tuple(_arrays(shape)), opcode, operands, given, attributes
    )


def _closed(text: str) -> int:
    """Where the parenthesis that begins a text ends."""
    depth = 0
    for found in _PARENTHESIS.finditer(text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    raise ValueError(f"no end in {text[:80]!r}")


def _arrays(shape: str) -> Iterator[_Array]:
    """The arrays of a shape, of a tuple all of them."""
    for dtype, dims, order, layout in _ARRAY.findall(shape):
        yield _array(dtype, dims, order, layout)


@functools.lru_cache(maxsize=100_000)
def _array(dtype: str, dims: str, order: str, layout: str) -> _Array:
    """One array; of no bytes where it does not lie in main memory."""
    sizes = tuple(int(one.removeprefix("<=")) for one in dims.split(",") if one)
    space = re.search(r"S\((\d+)\)", layout)
    if (space and space[1] != "0") or dtype in ("token", "opaque"):
        return _Array(dtype, sizes, 0.0)
    padded = list(sizes)
    tile = re.match(r"T\(([\d,]+)\)", layout)
    if tile:
        nearest = [int(one) for one in order.split(",") if one]
        tiles = [int(one) for one in tile[1].split(",")]
        for axis, size in zip(nearest, reversed(tiles), strict=False):
            padded[axis] = -(-padded[axis] // size) * size
    return _Array(dtype, sizes, _bytes_of_one(dtype) * math.prod(padded))


def _bytes_of_one(dtype: str) -> float:
    """The bytes of a number."""
    bits = _BITS.search(dtype)
    return int(bits[0]) / 8 if bits else 1.0
