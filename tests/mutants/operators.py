"""What is changed, and where: the operators of cosmic-ray that matter here, and two of our own.

Of the twelve ways in which cosmic-ray replaces an operator, most end in a `TypeError` that any test
sees; only those are taken that leave a program which runs.
"""

import difflib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import parso
from cosmic_ray import mutating, plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Example, Operator

_BINARY = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
    *("RShift_LShift", "LShift_RShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr"),
)
_COMPARISON = ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot")
_OTHERS = (
    *("NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr"),
    *("ReplaceOrWithAnd", "AddNot", "ZeroIterationForLoop", "ReplaceBreakWithContinue"),
    *("ReplaceContinueWithBreak", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Invert"),
    "ReplaceUnaryOperator_Delete_Not",
)
_SYMMETRIC = ("max", "maximum", "min", "minimum")
_SILENT = ("raise_stmt", "fstring", "import_from", "import_name", "decorator")
"""Nodes within which nothing is changed: what an error says, and what no test should pin."""


class SwapArguments(Operator):
    """Exchanges the first two arguments of a call that are given by their position.

    Tests whose inputs are symmetric, or equal in length and number, do not see it.
    """

    def mutation_positions(self, node):
        if _positional(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        first, second = _positional(node)
        i, j = node.children.index(first), node.children.index(second)
        swapped = [" " * (k > 0) + one.get_code().strip() for k, one in enumerate((second, first))]
        node.children[i], node.children[j] = map(parso.parse, swapped)
        return node

    @classmethod
    def examples(cls):
        return (Example("f(a, b, c)", "f(b, a, c)"), Example("x.f(a, b=1)", "x.f(a, b=1)"))


class RemoveStatement(Operator):
    """Leaves out a call whose result nobody takes, and a new value of a name that has one."""

    def mutation_positions(self, node):
        called = node.type in ("atom_expr", "power") and node.parent.type == "simple_stmt"
        if called or (node.type == "expr_stmt" and _renews(node)):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        return parso.parse(node.get_first_leaf().prefix + "pass")

    @classmethod
    def examples(cls):
        return (Example("x = 1\nx = f(x)", "x = 1\npass"), Example("f(x)\n", "pass\n"))


def _positional(node) -> list | None:
    """The first two arguments of the list of arguments `node`, if they may be exchanged."""
    if node.type != "arglist":
        return None
    given = node.children[::2]
    if len(given) < 2 or any(one.type == "argument" for one in given[:2]):
        return None
    if any(one.type in ("string", "strings") for one in given[:2]):
        return None  # A text in another's place is an error.
    function = node.parent.get_previous_sibling() if node.parent.type == "trailer" else None
    if function is not None and function.get_last_leaf().value in _SYMMETRIC:
        return None
    return given[:2]


def _renews(node) -> bool:
    """Whether the statement gives a name another value, made of its own."""
    if node.children[1].type == "annassign":
        return False
    if node.children[1].type == "operator" and node.children[1].value != "=":
        return True
    names = {name.value for name in node.get_defined_names()}
    last = node.children[-1]
    return bool(names) and names <= {leaf.value for leaf in ast_nodes(last) if leaf.type == "name"}


OPERATORS: dict[str, Operator] = {
    name: plugins.get_operator(f"core/{name}")()
    for name in (
        *(f"ReplaceBinaryOperator_{pair}" for pair in _BINARY),
        *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISON),
        *_OTHERS,
    )
} | {"SwapArguments": SwapArguments(), "RemoveStatement": RemoveStatement()}


class Mutant(NamedTuple):
    """A change of one place.

    Attributes:
      module: path below the package.
      operator: of `OPERATORS`.
      occurrence: the place, as cosmic-ray counts them.
      place: line and column.
    """

    module: str
    operator: str
    occurrence: int
    place: tuple[int, int]

    def code(self, source: str) -> str:
        """The module as the mutant has it."""
        code = mutating.mutate_code(source, OPERATORS[self.operator], self.occurrence)
        assert code is not None
        return code


class Change(NamedTuple):
    """What a mutant changes: the lines it takes away and those it puts there, stripped."""

    removed: str
    added: str


def change_of(source: str, code: str) -> Change:
    """The change from one text to another."""
    lines = list(difflib.unified_diff(source.splitlines(), code.splitlines(), n=0, lineterm=""))
    sides = (
        " ".join(line[1:].strip() for line in lines[2:] if line.startswith(sign)) for sign in "-+"
    )
    return Change(*sides)


def diff_of(module: str, source: str, code: str) -> str:
    """The change with the lines around it, for people to read."""
    lines = difflib.unified_diff(
        source.splitlines(), code.splitlines(), module, "mutant", n=2, lineterm=""
    )
    return "\n".join(lines)


def mutants_of(module: str, path: pathlib.Path) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = get_ast(path.read_text())
    nodes = list(ast_nodes(tree))
    for name, operator in OPERATORS.items():
        occurrence = 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                if not _is_silent(node):
                    yield Mutant(module, name, occurrence, start)
                occurrence += 1


def _is_silent(node) -> bool:
    """Whether it is part of an annotation, a message, or a module's list of names."""
    while node.parent is not None:
        parent = node.parent
        if parent.type in _SILENT or node.type in _SILENT:
            return True
        if parent.type in ("annassign", "tfpdef") and node is parent.children[1]:
            return True
        if parent.type in ("funcdef", "param") and parent.annotation is node:
            return True
        if parent.type == "parameters" and node.type == "operator":
            return True
        if parent.type == "expr_stmt" and parent.children[0].get_code().strip() == "__all__":
            return True
        node = parent
    return False
