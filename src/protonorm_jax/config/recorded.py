"""Configs as runs and people have written them, of this version and of those before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protonorm_jax import documents, json_files, settings
from protonorm_jax.config.fields import Config
from protonorm_jax.errors import UsageError

# Fields of configs that were recorded before settings belonged to methods.
MOVED = ("proximity", "scale", "align", "weighting", "collect")


def without_unset(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was recorded before settings belonged to methods, but for what was not set.

    None was the method's own default, and `collect` had a value for every method, also for those
    that it meant nothing to.
    """
    own = settings.fields(settings.groups().get(method, settings.NoSettings))
    return {
        name: value
        for name, value in values.items()
        if name not in MOVED or (value is not None and (name != "collect" or name in own))
    }


def from_dict(values: Mapping[str, Any]) -> Config:
    """A config from a mapping such as `to_dict` returns.

    Configs recorded when the settings of methods were fields of `Config` are taken too.

    Raises:
      UsageError: an unknown field, or a value outside its range.
    """
    values = dict(values)
    if "method_settings" not in values and any(name in values for name in MOVED):
        moved = {name: values.pop(name) for name in MOVED if name in values}
        method = values.get("method", Config.method)
        values["method_settings"] = without_unset(method, moved)
    known = settings.fields(Config)
    for name in values:
        if name not in known:
            raise UsageError(
                f"Config has no field {name!r}; its fields are {', '.join(known)}; settings of a "
                "method belong into method_settings"
            )
    return Config(**values)


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has recorded as `Config.to_dict` has it, without checking it.

    What older versions did not write has its default. Settings of a method that is not known stay
    as they are.
    """
    values = dict(values)
    moved = {name: values.pop(name) for name in MOVED if name in values}
    method = values.get("method", settings.fields(Config)["method"].default)
    own = without_unset(method, moved) | dict(values.get("method_settings") or {})
    group = settings.groups().get(method, settings.NoSettings)
    own = _defaults(group) | own
    return {**_defaults(Config), **values, "method": method, "method_settings": own}


def as_recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """As `complete`, but of the method's own settings only what is recorded: it loads no method."""
    values = dict(values)
    for name in ("methods_file", "relative_to"):
        values.pop(name, None)
    moved = {name: values.pop(name) for name in MOVED if name in values}
    own = {name: value for name, value in moved.items() if value is not None}
    own |= dict(values.get("method_settings") or {})
    return {**_defaults(Config), **values, "method_settings": own}


def _defaults(group: type) -> dict[str, Any]:
    return {name: field.default for name, field in settings.fields(group).items()}


def without_method(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config file holds, but for its method and what belongs to it."""
    own = ("method", "method_settings", "methods_file", *MOVED)
    return {name: value for name, value in values.items() if name not in own}


def load(path: str | Path) -> Config:
    """Reads a config from a JSON file, such as a run's `config.json`.

    Raises:
      UsageError: the file is missing, not JSON, not one object, or holds a bad setting.
    """
    return from_recorded(load_values(path))


def from_recorded(values: Mapping[str, Any]) -> Config:
    """As `from_dict`, of what a run or sweep has recorded.

    There may be a `methods_file` among it, of which nothing but the existence counts, and the
    directories that paths are `relative_to`.

    Raises:
      UsageError: a bad setting, or a method that has not been loaded from its file.
    """
    values = dict(values)
    file = values.pop("methods_file", None)
    values = with_bases(values, values.pop("relative_to", None))
    if isinstance(file, dict) and values.get("method") not in settings.groups():
        raise UsageError(
            f"--methods must be given for method {values.get('method')}, which came from "
            f"{file.get('path')} with SHA-256 {file.get('digest')}"
        )
    return from_dict(values)


def with_bases(values: Mapping[str, Any], bases: Any) -> dict[str, Any]:
    """The values, those with a relative path with the directory that it is relative to.

    Args:
      values: of settings by name.
      bases: directories by name; or what else a damaged record holds.
    """
    values = dict(values)
    for name, base in bases.items() if isinstance(bases, Mapping) else ():
        if isinstance(values.get(name), str) and isinstance(base, str):
            values[name] = settings.RelativePath(values[name], base)
    return values


def load_values(path: str | Path) -> dict[str, Any]:
    """What the file holds that a run has recorded its settings in.

    Raises:
      UsageError: see `read_document`.
    """
    return read_document(path).value


def read_document(path: str | Path) -> documents.Document:
    """What a file with settings holds, a mapping.

    Args:
      path: of the file; its form is that of its ending, see `documents.form_of`.

    Raises:
      UsageError: the file is missing, not in its form, or no mapping.
    """
    form = documents.form_of(path)
    try:
        found = documents.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"config must be a readable {form} file, got {str(path)!r}: {error}"
        ) from error
    except ValueError as error:
        raise UsageError(f"config must be valid {form}, got {str(path)!r}: {error}") from error
    if form == documents.YAML and found.value is None:  # Nothing, or comments alone.
        found = documents.Document({}, {})
    if not isinstance(found.value, dict):
        rule = "one JSON object" if form == documents.JSON else "settings by name"
        kind = json_files.kind(found.value)
        raise UsageError(f"config must hold {rule}, got {kind} in {str(path)!r}")
    if not isinstance(found.value.get("method", ""), str):
        raise UsageError(
            f"Config.method must be text, got {found.value['method']!r} in {str(path)!r}"
        )
    return found
