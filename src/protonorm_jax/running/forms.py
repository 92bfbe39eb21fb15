"""The form of recorded files: what is read back is checked before anything is made of it.

Each function takes the text of a file and returns what it holds, or raises a `ValueError` of one
line.
"""

from collections.abc import Mapping
from typing import Any

from protonorm_jax import json_files

_TEXTS = ("method", "status")


def one_object(text: str) -> dict[str, Any]:
    """Of any file that holds one JSON object."""
    value = json_files.parse(text)
    _require(value, dict, "it", "an object")
    return value


def summary(text: str) -> dict[str, Any]:
    """Of `summary.json`."""
    value = one_object(text)
    _check_summary(value)
    return value


def rows(text: str) -> list[dict[str, Any]]:
    """Of `metrics.jsonl`: a row for each evaluated round, without one that is half-written."""
    result = json_files.parse_lines(_whole(text))
    for row in result:
        _check_numbers(row)
        _require(row.get("round"), int, "round", "an integer")
    return result


def results(text: str) -> list[dict[str, Any]]:
    """Of `results.jsonl`, in the order of runs; an unfinished last line is left out."""
    result = json_files.parse_lines(_whole(text))
    for row in result:
        _check_summary(row)
        if not str(row.get("run")).isdigit():
            raise ValueError(f"run must be a number in digits, got {row.get('run')!r}")
    return sorted(result, key=lambda row: int(row["run"]))


def config(text: str) -> dict[str, Any]:
    """Of `config.json`, what it must have whatever version wrote it."""
    value = one_object(text)
    _require(value.get("method"), str, "method", "text")
    _require(value.get("data"), str, "data", "text")
    for name in ("seed", "num_clients", "rounds"):
        _require(value.get(name), int, name, "an integer")
    for name in ("method_settings", "methods_file"):
        _require(value.get(name, {}), dict, name, "an object")
    return value


def method(text: str) -> str:
    """Of `config.json`, the method alone."""
    value = one_object(text)
    _require(value.get("method"), str, "method", "text")
    return value["method"]


def manifest(text: str) -> dict[str, Any]:
    """Of `manifest.json`."""
    value = one_object(text)
    for name in ("versions", "device", "vmapped", "key"):
        _require(value.get(name, {}), dict, name, "an object")
    _require(value.get("clients", []), list, "clients", "a list")
    for client in value.get("clients", []):
        _require(client, dict, "each of clients", "an object")
        _require(client.get("test_samples", 0), int, "test_samples", "an integer")
        for name in ("train_by_class", "test_by_class"):
            _require(client.get(name, {}), dict, name, "an object")
            for label, count in client.get(name, {}).items():
                _require(count, int, f"each of {name}", "an integer")
                int(label)
    return value


def sweep(text: str) -> dict[str, Any]:
    """Of `sweep.json`."""
    value = one_object(text)
    _require(value.get("base"), dict, "base", "an object")
    for name in ("runs", "runs_per_program"):
        _require(value.get(name), list, name, "a list")
    _require(value.get("vmap_runs"), int, "vmap_runs", "an integer")
    for change in value["runs"]:
        _require(change, dict, "each of runs", "an object")
    for count in value["runs_per_program"]:
        _require(count, int, "each of runs_per_program", "an integer")
    _require(value.get("methods_files", []), list, "methods_files", "a list")
    for file in value.get("methods_files", []):
        _require(file, dict, "each of methods_files", "an object")
    return value


def _whole(text: str) -> str:
    """All but a last line that has no end."""
    return text[: text.rfind("\n") + 1]


def _check_summary(value: Mapping[str, Any]) -> None:
    for name in _TEXTS:
        _require(value.get(name), str, name, "text")
    _check_numbers(value)


def _check_numbers(row: Mapping[str, Any]) -> None:
    """What tables and pictures take for a number must be one, or null."""
    figures = ("round", "rounds", "selected_round", "min_angle", "floats_up", "floats_down")
    totals = ("floats_up_total", "floats_down_total")
    endings = tuple(f"accuracy{one}" for one in ("", "_best", "_selected", "_std"))
    endings += ("loss", "entropy", "mse", "seconds")
    for name, value in row.items():
        if (name in figures + totals or name.endswith(endings)) and value is not None:
            _require(value, int | float, name, "a number or null")


def _require(value: Any, kind: Any, name: str, words: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        shown = repr(value)
        raise ValueError(f"{name} must be {words}, got {shown[:60]}{'...'[: len(shown) > 60]}")
