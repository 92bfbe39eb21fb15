"""The form of recorded files: what is read back is checked before anything is made of it.

Each function takes the text of a file and returns what it holds, or raises a `ValueError` of one
line.
"""

import functools
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


def dashboards(text: str) -> dict[str, Any]:
    """Of `dashboards.json`."""
    value = one_object(text)
    _require_all(value.get("names"), str, "names", "text")
    _require(value.get("token"), str, "token", "text")
    return value


def sweep(text: str) -> dict[str, Any]:
    """Of `sweep.json`."""
    value = one_object(text)
    for name in ("runs", "runs_per_program"):
        _require(value.get(name), list, name, "a list")
    for change in value["runs"]:
        _require(change, dict, "each of runs", "an object")
    for count in value["runs_per_program"]:
        _require(count, int, "each of runs_per_program", "an integer")
    _check_origin(value)
    return value


def share(text: str) -> list[str]:
    """Of `share.json`, the names of the runs."""
    value = one_object(text)
    _require_all(value.get("runs"), str, "runs", "text", least=0)
    return value["runs"]


def tuning(text: str) -> dict[str, Any]:
    """Of `tuning.json`."""
    value = one_object(text)
    if value.get("format") != 1:
        raise ValueError(f"format must be 1, got {value.get('format')!r}")
    for name in ("tune", "runs_per_program"):
        _require(value.get(name), int, name, "an integer")
    if value.get("rounds") is not None:
        _require(value["rounds"], int, "rounds", "an integer or null")
    for name in ("seeds", "final_seeds"):
        _require_all(value.get(name), int, name, "an integer")
    _check_rates(value.get("learning_rates"), "learning_rates", value["tune"])
    _require_all(value.get("data_digests"), str, "data_digests", "text")
    _require_all(value.get("cells"), dict, "cells", "an object")
    for cell in value["cells"]:
        for name in ("changes", "ranges"):
            _require(cell.get(name), dict, name, "an object")
        _require_all(cell.get("points"), dict, "points", "an object")
        for point in cell["points"]:
            _check_values(point, "each of points")
        for found in cell["ranges"].values():
            _check_range(found, value["tune"])
        if len(cell["points"]) != value["tune"]:
            raise ValueError(f"points must be {value['tune']}, got {len(cell['points'])}")
    if len(value["data_digests"]) != len(value["cells"]):
        raise ValueError("data_digests must be as many as cells")
    _check_origin(value)
    return value


def choices(text: str) -> list[dict[str, Any]]:
    """Of `choices.json`."""
    value = json_files.parse(text)
    _require_all(value, dict, "it", "an object")
    for one in value:
        for name in ("changes", "point"):
            _require(one.get(name), dict, name, "an object")
        _check_values(one["point"], "point")
        _require_all(one.get("edges"), str, "edges", "text", least=0)
        _require_all(one.get("tried"), dict, "tried", "an object")
        for name in ("chosen", "seconds"):
            _require(one.get(name), int if name == "chosen" else int | float, name, "a number")
        if not 0 <= one["chosen"] < len(one["tried"]):
            raise ValueError(f"chosen must be one of those tried, got {one['chosen']}")
        for tried in one["tried"]:
            _require(tried.get("point"), dict, "point", "an object")
            _require(tried.get("diverged"), int, "diverged", "an integer")
            _require(tried.get("seconds"), int | float, "seconds", "a number")
            for name in ("validation_accuracy", "test_accuracy"):
                if tried.get(name) is not None:
                    _require(tried[name], int | float, name, "a number or null")
    return value


def _check_range(found: Any, count: int) -> None:
    """Of a setting that is tuned: as many values as points, or two ends and a scale."""
    _require(found, dict, "each of ranges", "an object")
    if "values" in found:
        _check_rates(found["values"], "values", count)
        return
    for name in ("low", "high"):
        _require(found.get(name), int | float, name, "a number")
    if found.get("scale") not in ("linear", "log"):
        raise ValueError(f"scale must be linear or log, got {found.get('scale')!r}")
    if not found["low"] < found["high"] or (found["scale"] == "log" and not found["low"] > 0):
        raise ValueError(f"low must be < high, and on a log scale > 0, got {found['low']}")


def _check_rates(values: Any, name: str, count: int) -> None:
    """So many learning rates."""
    _require_all(values, int | float, name, "a number", least=count)
    if len(values) != count or min(values, default=1) <= 0:
        raise ValueError(f"{name} must be {count} numbers > 0, got {values}")


def _check_values(point: Mapping[str, Any], words: str) -> None:
    for value in point.values():
        _require(value, int | float, words, "an object of numbers")


def _check_origin(value: Mapping[str, Any]) -> None:
    """What `sweep_plan.origin` has written, and how many runs are in a batch."""
    _require(value.get("base"), dict, "base", "an object")
    _require(value.get("vmap_runs"), int, "vmap_runs", "an integer")
    _require(value.get("methods_files", []), list, "methods_files", "a list")
    for file in value.get("methods_files", []):
        _require(file, dict, "each of methods_files", "an object")


def _require_all(value: Any, kind: Any, name: str, words: str, *, least: int = 1) -> None:
    """A list of so many values of a kind."""
    _require(value, list, name, "a list")
    if len(value) < least:
        raise ValueError(f"{name} must have at least {least}, got {len(value)}")
    for one in value:
        _require(one, kind, f"each of {name}", words)


def _whole(text: str) -> str:
    """All but a last line that has no end."""
    return text[: text.rfind("\n") + 1]


def _check_summary(value: Mapping[str, Any]) -> None:
    for name in _TEXTS:
        _require(value.get(name), str, name, "text")
    _check_numbers(value)


def _check_numbers(row: Mapping[str, Any]) -> None:
    """What tables and pictures take for a number must be one, or null."""
    for name, value in row.items():
        if value is not None and _is_figure(name):
            _require(value, int | float, name, "a number or null")


@functools.lru_cache(4096)  # The rows of many runs have the same names.
def _is_figure(name: str) -> bool:
    figures = (
        *("round", "rounds", "selected_round", "min_angle", "floats_up", "floats_down"),
        *("floats_up_total", "floats_down_total"),
    )
    endings = tuple(f"accuracy{one}" for one in ("", "_best", "_selected", "_std"))
    endings += ("loss", "entropy", "mse", "seconds")
    return name in figures or name.endswith(endings)


def _require(value: Any, kind: Any, name: str, words: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        shown = repr(value)
        raise ValueError(f"{name} must be {words}, got {shown[:60]}{'...'[: len(shown) > 60]}")
