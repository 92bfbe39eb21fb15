"""Recorded runs as a table of pandas."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protonorm_jax import config, settings
from protonorm_jax.errors import UsageError
from protonorm_jax.running import records

if TYPE_CHECKING:
    import pandas as pd


def load_results(*directories: str | Path) -> "pd.DataFrame":
    """Recorded runs as a table, a row a run, finished or not.

    The columns are `directory`, `status`, then settings, those of methods by their plain names
    (`margin`, missing where the run's method has none), then results: the fields of `summary.json`,
    with `rounds_done` for its `rounds`, and `accuracy` and `accuracy_selected` by the predictor of
    the method's own paper. Integers and truth values stay such where some are missing (`Int64`,
    `boolean`).

    Args:
      *directories: of runs, sweeps and tuned experiments (the final runs), or above such.

    Returns:
      A `pandas.DataFrame`.

    Raises:
      UsageError: a directory without anything of ours, or one that is damaged; pandas is missing.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError(
            "load_results must have pandas, which pip install 'protonorm_jax[pandas]' brings, got "
            f"{error}"
        ) from error
    if not directories:
        raise UsageError("load_results must be given a directory at least, got none")
    found = records.read(directories)
    rows = [one.flat() for one in found]
    results = dict.fromkeys(name for one in found for name in one.results)
    inputs = dict.fromkeys(name for one in found for name in one.settings)
    names = dict.fromkeys(("directory", "status", *inputs, *results))
    return pd.DataFrame(
        {name: _column(name, [row.get(name) for row in rows]) for name in names}, columns=[*names]
    )


def _column(name: str, values: Sequence[Any]) -> Any:
    """The values in the narrowest type that holds them, also where some are missing."""
    import pandas as pd

    there = [value for value in values if value is not None]
    whole = len(there) == len(values)
    known = settings.fields(config.Config)
    is_float = name in known and settings.field_type(config.Config, name)[0] is float
    if there and all(isinstance(value, bool) for value in there):
        return pd.array(values, dtype="bool" if whole else "boolean")
    if there and all(type(value) is int for value in there) and not is_float:
        return pd.array(values, dtype="int64" if whole else "Int64")
    if there and all(type(value) in (int, float) for value in there):
        return pd.array([float("nan") if one is None else one for one in values], dtype="float64")
    return pd.Series(values, dtype="object" if not there else None)
