"""Config files as people write them: TOML, YAML or JSON, checked key by key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from protonorm_jax import documents, settings
from protonorm_jax.config.fields import Config
from protonorm_jax.config.recorded import MOVED, read_document, without_method
from protonorm_jax.errors import UsageError

# What a run records beside its settings, see `from_recorded`.
_RECORDED = ("methods_file", "relative_to")


def method_in(path: str | Path) -> str | None:
    """The method that a config file names, if it does.

    Raises:
      UsageError: the file is missing, or not a mapping in its form.
    """
    return read_document(path).value.get("method")


def read_file(path: str | Path, method: str | None = None) -> dict[str, Any]:
    """What a config file holds, as `from_recorded` takes it.

    Settings of a method are in `method_settings`, or in a table that has the method's name. There
    may be tables of several methods, of which that of the method chosen counts.

    Args:
      path: of the file; one that ends in `.toml`, `.yaml` or `.yml` is taken for such, others for
        JSON.
      method: chosen elsewhere; with another one than the file's, `method_settings` are dropped.

    Raises:
      UsageError: the file is missing, or not a mapping in its form; or a setting that there is not,
        or a value that it cannot have.
    """
    found = _File(path, read_document(path))
    values = found.checked()
    own = values.get("method", settings.fields(Config)["method"].default)
    tables = {name: values.pop(name) for name in list(values) if name not in _known()}
    if method not in (None, own):
        values = without_method(values) | {"method": method}
        own = method
    if own in tables:
        before = values.get("method_settings", {})
        for name in tables[own]:
            if name in before:
                found.refuse(f"{own}.{name} must be given once", (own, name), "another value")
        values["method_settings"] = {**before, **tables[own]}
    return values


def _known() -> set[str]:
    """The keys of a config file, but for the tables of methods."""
    return {*settings.fields(Config), *_RECORDED, *MOVED}


class _File:
    """A config file while its keys are checked.

    Args:
      path: of the file.
      found: what it holds.
    """

    def __init__(self, path: str | Path, found: documents.Document) -> None:
        self._path = path
        self._found = found

    def checked(self) -> dict[str, Any]:
        """All values in their own types.

        Raises:
          UsageError: a setting that there is not, or a value that it cannot have.
        """
        result = {}
        own = self._found.value.get("method", settings.fields(Config)["method"].default)
        for name, value in self._found.value.items():
            if name == "method_settings":
                result[name] = self._table(own, name, value)
            elif name in settings.fields(Config):
                result[name] = self._value("Config", Config, name, value, (name,))
            elif name in _known():
                result[name] = value
            elif name in settings.groups() and isinstance(value, dict):
                result[name] = self._table(name, name, value)
            else:
                known = [*settings.fields(Config), *settings.groups()]
                owners = [key for key, row in settings.groups().items() if name in _names(row)]
                belongs = f"; it belongs to {', '.join(owners)}" if owners else ""
                hint = "" if owners else settings.hint(name, known)
                self.refuse(f"Config has no field {name!r}{hint}{belongs}", (name,))
        return result

    def _table(self, method: str, key: str, values: Any) -> Any:
        """The settings of a method; of one that is not known as they are."""
        group = settings.groups().get(method)
        if group is None or not isinstance(values, Mapping):
            return values
        for name in values:
            if name not in _names(group):
                hint = settings.hint(name, _names(group))
                self.refuse(f"{method} has no setting {name!r}{hint}", (key, name))
        return {
            name: self._value(method, group, name, value, (key, name))
            for name, value in values.items()
        }

    def _value(self, owner: str, group: Any, name: str, value: Any, place: tuple[str, ...]) -> Any:
        if isinstance(value, str) and settings.field_type(group, name)[0] is bool:
            value = settings.parsed(group, name, value)  # As the command line has it: yes and no.
        try:
            return settings.check(owner, group, name, value)
        except UsageError as error:
            self.refuse(str(error), place)

    def refuse(self, words: str, place: tuple[str, ...], got: str = "") -> NoReturn:
        """Complains of a key.

        Args:
          words: what is wrong.
          place: of the key, see `documents.Document`.
          got: what there is instead.

        Raises:
          UsageError: always.
        """
        line = self._found.lines.get(place)
        where = f"{str(self._path)!r}{f', line {line}' if line else ''}"
        raise UsageError(f"{words}{f', got {got}' if got else ''} in {where}")


def _names(group: Any) -> list[str]:
    return list(settings.fields(group))
