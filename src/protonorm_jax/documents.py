"""TOML, YAML and JSON as people write them: whatever is wrong is a `ValueError` of one line.

YAML is read as version 1.2 has it: `yes` and `no` are text, `1e-3` is a number, and `010` is ten.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax import json_files

YAML, TOML, JSON = "YAML", "TOML", "JSON"
_ENDINGS = {".toml": TOML, ".yaml": YAML, ".yml": YAML}

_Path = tuple[str | int, ...]


class Document(NamedTuple):
    """What a file holds.

    Attributes:
      value: of mappings, lists, texts, numbers, truth values and None.
      lines: in which line each key of a mapping stands, by the keys and positions that lead to it;
        empty for TOML and JSON.
    """

    value: Any
    lines: dict[_Path, int]


def form_of(path: str | Path) -> str:
    """`YAML` or `TOML` by the ending of a file's name, else `JSON`."""
    return _ENDINGS.get(Path(path).suffix.lower(), JSON)


def read(path: str | Path) -> Document:
    """What a file holds, in the form that its ending says.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not UTF-8, or not of that form.
    """
    text = Path(path).read_bytes().decode("utf-8-sig")
    form = form_of(path)
    try:
        if form == TOML:
            return Document(tomllib.loads(text), {})
        return _parse_yaml(text) if form == YAML else Document(json_files.parse(text), {})
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _parse_yaml(text: str) -> Document:
    import yaml

    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        lines = dict(_key_lines(node, ()))
        return Document(None if node is None else loader.construct_document(node), lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        words = getattr(error, "problem", None) or str(error)
        raise ValueError(place + " ".join(words.split())) from error
    finally:
        loader.dispose()


def _key_lines(node: Any, path: _Path) -> Iterator[tuple[_Path, int]]:
    """The line of each key below a node; a key is a text, and there once.

    Raises:
      ValueError: it is not.
    """
    if node is None or node.id == "scalar":
        return
    if node.id == "sequence":
        for position, child in enumerate(node.value):
            yield from _key_lines(child, (*path, position))
        return
    seen = set()
    for key, child in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar" or not key.tag.endswith(":str"):
            raise ValueError(f"line {line}: a key must be text, got {key.value!r}")
        if key.value in seen:
            raise ValueError(f"line {line}: {key.value} must be there once")
        seen.add(key.value)
        yield (*path, key.value), line
        yield from _key_lines(child, (*path, key.value))


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}
"""What plain words mean in YAML 1.2, and how they begin; all others are text."""


def resolve_as_1_2(cls: Any, *, also: bool = False) -> Any:
    """Lets a loader or dumper of PyYAML take plain words for what they are in YAML 1.2.

    Args:
      cls: a class of its own.
      also: whether they stay besides what they are in YAML 1.1, so that both see text in text.
    """
    if not also:
        cls.yaml_implicit_resolvers = {}
    for kind, (pattern, first) in _SCALARS.items():
        regex = re.compile(f"^(?:{pattern})$")
        cls.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", regex, list(first))
    return cls


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Of YAML 1.2."""

    def integer(loader: Any, node: Any) -> int:
        return int(loader.construct_scalar(node))

    Loader.add_constructor("tag:yaml.org,2002:int", integer)
    return resolve_as_1_2(Loader)
