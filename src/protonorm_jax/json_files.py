"""JSON as it comes from outside: whatever is wrong with it is a `ValueError` of one line."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn


def parse(text: str) -> Any:
    """What a JSON text holds.

    Raises:
      ValueError: it is not JSON (`NaN` is none), nested too deep, or has a number beyond floats.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The objects of a text that has one in each line.

    Raises:
      ValueError: a line is no JSON object.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = parse(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} must be one JSON object, is {kind(row)}")
        rows.append(row)
    return rows


def read(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
      OSError: it cannot be read.
      ValueError: see `parse`; or it is not UTF-8.
    """
    return parse(Path(path).read_bytes().decode("utf-8-sig"))


def kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of floats")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
