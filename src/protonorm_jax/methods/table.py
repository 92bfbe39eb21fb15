"""The table itself: what a row must be, and methods from a user's own file."""

import dataclasses
import hashlib
import importlib.util
import sys
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from protonorm_jax import config, settings
from protonorm_jax.errors import UsageError
from protonorm_jax.methods.method import Method, Setup

# Names that the command line has for itself.
_TAKEN = (
    *("out", "overwrite", "debug", "config", "methods", "help", "version", "command", "name"),
    *("grid", "grid_file", "seeds", "runs_per_program", "vmap_runs", "dry_run", "print_config"),
    *("log", "shard", "time_limit"),
    *("tune", "tune_seeds", "tune_rounds", "tune_learning_rates"),
    *("distributed", "coordinator", "num_processes", "process_id"),
)


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "collect": ("after", "before", "during", None),
    "weighting": ("samples", "uniform"),
    "sent_to": ("trained", "all"),
    "rows": ("all", "arrived"),
    "heads": ("any", "equal", "linear"),
}
"""Fields of a `Method` that take one of a few values."""


class Row(NamedTuple):
    """One row of the table.

    Attributes:
      factory: `(setup, fixed) -> Method`, where `fixed` holds the untraced settings by name.
      settings: the method's group, a class made by `settings.group`.
      up: what a client sends up, in words.
      down: what it is sent, in words.
      source: the paper.
      notes: `(setup, settings) -> lines`, what the settings come to, said before a run starts.
    """

    factory: Callable[[Setup, Any], Method]
    settings: type = settings.NoSettings
    up: str = ""
    down: str = ""
    source: str = ""
    notes: Callable[[Setup, Any], Sequence[str]] = lambda setup, settings: ()


class File(NamedTuple):
    """A user's file of methods.

    Attributes:
      path: absolute.
      digest: SHA-256 of its content, hexadecimal.
    """

    path: str
    digest: str


class Table(UserDict[str, Row]):
    """Rows by the name of a method. What is put in is checked.

    Attributes:
      files: by name of a method, the user's file it came from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, File] = {}

    def __setitem__(self, name: str, row: Row) -> None:
        """Adds a method.

        Raises:
          UsageError: it is not a `Row`, or a setting has a name that is taken, or a range that it
            cannot have.
        """
        if not isinstance(row, Row):
            raise UsageError(
                f"METHODS[{name!r}] must be methods.Row(factory, Settings), where factory(setup, "
                f"fixed) returns a Method, got {row!r}"
            )
        if not isinstance(row.settings, type) or not hasattr(row.settings, "__dataclass_fields__"):
            raise UsageError(
                f"METHODS[{name!r}].settings must be a class made by settings.group, got "
                f"{row.settings!r}"
            )
        for setting in settings.fields(row.settings):
            if setting in (*settings.fields(config.Config), *_TAKEN):
                raise UsageError(
                    f"{name}.{setting} must have another name, got one that all methods have"
                )
        settings.check_ranges(name, row.settings)
        _register(row.settings)
        settings.groups()[name] = row.settings
        super().__setitem__(name, row)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        settings.groups().pop(name, None)
        self.files.pop(name, None)


METHODS = Table()
"""All methods by name."""

_REGISTERED: set[type] = set()


def _register(group: type) -> None:
    """Tells jax that instances of a group are pytrees: traced settings are leaves."""
    if group not in _REGISTERED:
        _REGISTERED.add(group)
        _register_fields(group, list(settings.traced(group)), list(settings.fixed(group)))


def _register_fields(group: type, traced: list[str], fixed: list[str]) -> None:
    jax.tree_util.register_dataclass(group, data_fields=traced, meta_fields=fixed)


def build(name: str, setup: Setup, values: Mapping[str, Any]) -> Method:
    """Makes a method by name.

    Args:
      name: a key of `METHODS`.
      setup: its sizes.
      values: all of its settings.

    Raises:
      UsageError: settings that do not fit each other or the sizes, or a field of the method that
        is none of its choices.
    """
    row = METHODS[name]
    made = row.factory(setup, Fixed({key: values[key] for key in settings.fixed(row.settings)}))
    for field, choices in _CHOICES.items():
        value = getattr(made, field)
        if value not in choices:
            raise UsageError(
                f"Method.{field} of {name} must be one of {', '.join(map(str, choices))}, got "
                f"{value!r}"
            )
    return made


def settings_of(name: str, values: Mapping[str, Any]) -> Any:
    """The group of a method with these values: what hooks see as `round.settings`."""
    return METHODS[name].settings(**values)


def checked_settings(name: str, values: Mapping[str, Any]) -> Any:
    """As `settings_of`, with defaults for what is left out.

    Raises:
      UsageError: an unknown method or setting, or a value outside its range.
    """
    if name not in METHODS:
        known = f"{', '.join(METHODS)}, got {name!r}{settings.hint(name, METHODS)}"
        raise UsageError(f"method must be one of {known}")
    return settings_of(name, settings.complete(name, METHODS[name].settings, values))


def free_settings(values: Mapping[str, Any]) -> Any:
    """`round.settings` of a method without a group: the values as attributes, all traced."""
    group = dataclasses.make_dataclass("FreeSettings", list(values), frozen=True)
    _register_fields(group, list(values), [])
    return group(**values)


class Fixed:
    """The untraced settings of a method as attributes.

    Traced ones are missing on purpose: a value that a closure holds would be the same for all runs
    of a program.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{name!r} is not an untraced setting; traced ones are in round.settings"
        )


def load_file(path: str | Path) -> File:
    """Runs a user's file, which puts methods of its own into `METHODS`.

    Raises:
      UsageError: it cannot be read, fails, or brings no method.
    """
    path = Path(path).expanduser().absolute()
    try:
        file = File(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise UsageError(
            f"--methods must be a readable file, got {str(path)!r}: {error}"
        ) from error
    before = dict(METHODS)
    name = f"protonorm_jax_methods_{file.digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--methods must be a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Annotations of the file are looked up there.
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"--methods must run without an error, got {text} in {path}") from error
    brought = [key for key, row in METHODS.items() if before.get(key) is not row]
    if not brought:
        raise UsageError(f"--methods must put a method into METHODS, got none from {path}")
    for key in brought:
        METHODS.files[key] = file
    return file
