"""Groups of settings: fields with a default, a help text and a rule, checked in one place.

`Config` is such a group, and every federated method has one of its own. The checks stand outside of
the classes, since jax makes instances of a method's group that hold traced arrays.
"""

import dataclasses
import difflib
import functools
import importlib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax.errors import UsageError


class Range(NamedTuple):
    """Where the values of a setting lie that are tried when it is tuned; see `between`.

    Attributes:
      low: the least.
      high: the greatest.
      scale: along which they are even: `linear` or `log`.
    """

    low: float
    high: float
    scale: str

    def at(self, place: float) -> float:
        """The value at a place between 0, the low end, and 1, in four digits."""
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** place
        else:
            value = self.low + (self.high - self.low) * place
        return min(max(float(f"{value:.4g}"), self.low), self.high)

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1."""
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def between(low: float, high: float, *, log: bool = False) -> Range:
    """A range for `setting(tune=...)`.

    Args:
      low: the least value.
      high: the greatest one.
      log: whether values are drawn evenly on a logarithmic scale.
    """
    return Range(low, high, "log" if log else "linear")


def setting(
    default: Any,
    help: str,
    *,
    traced: bool = False,
    probe: tuple[Any, Any] | None = None,
    reference: Any = None,
    later: bool = False,
    section: str = "",
    tune: Range | None = None,
    **rule: Any,
) -> Any:
    """A field of a group.

    Args:
      default: its value where nothing else is said.
      help: what the command line says of it.
      traced: whether runs that differ in it share a compiled program; a float then.
      probe: two values between which results differ, for the contract that all methods are
        tested by; `None` for the default and twice the default, or the first two choices.
      reference: what the published code does, where that is not the default; see `faithful`.
      later: whether there are records from before it came; see `lasting`.
      section: under which heading the command line lists it.
      tune: the range, see `between`, from which a sweep draws that tunes the method; without one
        the setting stays as it is. Of traced settings alone, as others take programs of their own.
      **rule: `choices`, or the bounds `above` (exclusive), `least`, `most` and `below`
        (exclusive); `bare`, the value of a flag that is given without one; and `path`, for text
        that names a file or folder: `file` if it is nothing else, `source` if it may be a word as
        well, or `WORD:PATH`.
    """
    metadata = {"help": help, "traced": traced, "probe": probe, "reference": reference}
    metadata |= {"later": later, "section": section, "tune": tune, **rule}
    return dataclasses.field(default=default, metadata=metadata)


@typing.dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(setting, dataclasses.field)
)
def group(cls: type) -> type:
    """Makes a class with `setting` fields a group: a frozen dataclass of keyword arguments."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


@group
class NoSettings:
    """The group of a method without settings."""


class Values(Mapping[str, Any]):
    """A mapping that cannot change, and so has a hash."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


_GROUPS: dict[str, type] = {}


def groups() -> dict[str, type]:
    """The groups of all registered methods by the method's name.

    `methods.METHODS` fills the dict. It is imported here by its name, for whoever asks first, since
    methods import what asks.
    """
    importlib.import_module("protonorm_jax.methods")
    return _GROUPS


def fields(group: Any) -> dict[str, dataclasses.Field]:
    """The fields of a group by name."""
    return {field.name: field for field in dataclasses.fields(group)}


def traced(group: Any) -> tuple[str, ...]:
    """The names of the traced settings of a group."""
    return tuple(name for name, field in fields(group).items() if field.metadata.get("traced"))


def fixed(group: Any) -> tuple[str, ...]:
    """The names of the settings that are compiled into a program."""
    return tuple(name for name in fields(group) if name not in traced(group))


def ranges(group: Any) -> dict[str, Range]:
    """The ranges of the settings of a group that are tuned, by name."""
    own = {name: field.metadata.get("tune") for name, field in fields(group).items()}
    return {name: found for name, found in own.items() if found is not None}


def check_ranges(owner: str, group: Any) -> None:
    """Refuses ranges that cannot be drawn from, or hold values that a setting cannot have.

    Args:
      owner: what messages call the group, such as `fedtgp`.
      group: the class.

    Raises:
      UsageError: names the setting, the rule and the range.
    """
    for name, found in ranges(group).items():

        def refuse(rule: str, name: str = name, found: Any = found) -> typing.NoReturn:
            raise UsageError(f"{owner}.{name}: tune must {rule}, got {found!r}")

        if not isinstance(found, Range):
            refuse("be settings.between(low, high) or left out")
        if name not in traced(group):
            refuse("be left out for a setting that is not traced")
        numbers = all(
            isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end)
            for end in (found.low, found.high)
        )
        if not numbers or not found.low < found.high:
            refuse("have two finite ends, the low one first")
        if found.scale == "log" and not found.low > 0:
            refuse("begin above 0 on a logarithmic scale")
        for end in (found.low, found.high):
            try:
                check(owner, group, name, end)
            except UsageError as error:
                refuse(f"hold only what the setting may be: {error}")


def references(group: Any) -> dict[str, Any]:
    """What the published code does, by setting, where that is not the default."""
    own = {name: field.metadata["reference"] for name, field in fields(group).items()}
    return {name: value for name, value in own.items() if value is not None}


def faithful(owner: str, group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and for what they leave out what the published code does.

    Args:
      owner: what messages call the group.
      group: the class.
      values: by name.

    Raises:
      UsageError: a value that contradicts the published code.
    """
    wanted = references(group)
    for name, value in wanted.items():
        if name in values and values[name] != value:
            raise UsageError(
                f"{owner}.{name} must be {value} or left out with fidelity reference, got "
                f"{values[name]}"
            )
    return {**values, **wanted}


def own_choices(group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values but those that `faithful` may have put there, or that have their default."""
    group_fields = fields(group)
    return {
        name: value
        for name, value in values.items()
        if name not in references(group)
        or value not in (references(group)[name], group_fields[name].default)
    }


class RelativePath(str):
    """Text with a relative path, as it was given, and the directory that it is relative to.

    Equal to the plain text; for settings whose rule is `path`.
    """

    base: str

    def __new__(cls, text: str, base: str) -> "RelativePath":
        """The text, and the directory."""
        made = super().__new__(cls, text)
        made.base = base
        return made


def relative_path(kind: str, value: str) -> str:
    """The relative path in a setting with the rule `path`, or nothing where there is none.

    Args:
      kind: what the rule says.
      value: of the setting.
    """
    word, colon, path = value.partition(":")
    if kind == "source" and colon and re.fullmatch(r"[A-Za-z][\w-]+", word):
        path = "" if word == "tfds" else path
    elif kind == "source" and not re.search(r"[/\\.]", value):
        path = ""
    else:
        path = value
    return "" if not path or path.startswith("~") or Path(path).is_absolute() else path


def located(kind: str, value: str) -> str:
    """A setting with the rule `path`, its path made absolute if its directory is known.

    Where there is nothing of that name in the directory, but in the current one, it is left.
    """
    path, base = relative_path(kind, value), getattr(value, "base", None)
    if not path or base is None:
        return str(value)
    there = Path(base) / path
    if not there.exists() and (Path(path).exists() or not there.parent.exists()):
        return str(value)
    return value.removesuffix(path) + str(there)


def paths(group: Any) -> dict[str, str]:
    """The settings of a group that name paths, and what kind of."""
    own = {name: field.metadata.get("path") for name, field in fields(group).items()}
    return {name: kind for name, kind in own.items() if kind}


def lasting(group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values but those that came later and have their default, as they had before."""
    own = fields(group)
    return {
        name: value
        for name, value in values.items()
        if not (own[name].metadata["later"] and value == own[name].default)
    }


def field_type(group: Any, name: str) -> tuple[type, bool]:
    """The plain type of a field and whether `None` is allowed too."""
    hint = _hints(group if isinstance(group, type) else type(group))[name]
    if isinstance(hint, types.UnionType):
        (plain,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
        return plain, True
    return hint, False


@functools.cache
def _hints(group: type) -> dict[str, Any]:
    """The types of all fields. To find them takes a millisecond; a sweep asks by the thousand."""
    return typing.get_type_hints(group)


def parsed(group: Any, name: str, text: str) -> Any:
    """A value as written on the command line, in its own type; or as it is, if it has another.

    `check` then says what is wrong with it.
    """
    plain, _ = field_type(group, name)
    if plain is bool:
        return {"true": True, "yes": True, "false": False, "no": False}.get(text, text)
    try:
        return plain(text)
    except ValueError:
        return text


def complete(owner: str, group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a group, those that are not in `values` with their defaults.

    Args:
      owner: what messages call the group, such as `fedtgp`.
      group: the class.
      values: by name.

    Raises:
      UsageError: an unknown name, or a value outside its range.
    """
    for name in values:
        if name not in fields(group):
            raise UsageError(f"{owner} has no setting {name!r}{hint(name, fields(group))}")
    return {
        name: check(owner, group, name, values.get(name, field.default))
        for name, field in fields(group).items()
    }


def hint(name: str, known: typing.Iterable[str]) -> str:
    """What could have been meant, as ` (did you mean 'margin'?)`, or nothing.

    Names by which papers and other tools call a setting are taken for it.

    Args:
      name: what was written, a flag or the name of a setting.
      known: what there is, all flags or all names.
    """
    meant = {_plain(one): one for one in known}
    for ours, others in ELSEWHERE.items():
        if ours in meant:
            meant = {other: meant[ours] for other in others.split()} | meant
    close = difflib.get_close_matches(_plain(str(name)), meant, n=1)
    return f" (did you mean {meant[close[0]]!r}?)" if close else ""


def _plain(name: str) -> str:
    """A flag or a name, written like a field."""
    return name.strip().lower().lstrip("-").replace("-", "_").replace(" ", "_")


ELSEWHERE = {
    "alpha": "beta dirichlet dirichlet_alpha concentration",
    "batch_size": "b bs lbs local_batch_size local_bs minibatch",
    "classes_per_client": "class_per_client cpr shards",
    "data": "dataset",
    "devices": "device gpu gpus workers",
    "dropout": "cdr client_drop_rate drop_rate",
    "eval_every": "eg eval_gap",
    "family": "arch architecture model models model_family",
    "feature_dim": "fd embedding_dim",
    "learning_rate": "eta local_learning_rate local_lr lr step_size",
    "local_epochs": "e epochs local_ep ls num_epochs",
    "margin": "mart margin_threshold margin_threthold tau",
    "method": "algo algorithm strategy",
    "num_clients": "clients k n_clients nc num_users users",
    "optimizer": "optim",
    "out": "log_dir output output_dir save_dir",
    "overwrite": "force",
    "participation": "c frac fraction fraction_fit join_ratio jr sample_rate",
    "proximity": "lam lambd lambda lamda mu",
    "momentum": "mu",
    "rounds": "comm_rounds communication_rounds global_rounds gr num_rounds t",
    "scale": "s",
    "seed": "random_seed",
    "server_epochs": "se",
    "server_learning_rate": "server_lr slr",
    "train_fraction": "train_ratio",
    "weight_decay": "decay wd",
}
"""What papers and other tools call a setting; where several are meant, the first there is counts.
"""


def check(owner: str, group: Any, name: str, value: Any) -> Any:
    """The value in its own type.

    Raises:
      UsageError: it breaks the rule; the message names owner, field, rule and value.
    """
    plain, optional = field_type(group, name)
    if value is None and optional:
        return None

    def refuse(rule: str) -> typing.NoReturn:
        raise UsageError(f"{owner}.{name} must be {rule}, got {value!r}")

    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            refuse("within the range of floats")
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        kinds = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
        refuse(kinds.get(plain, plain.__name__))
    if isinstance(value, float) and not math.isfinite(value):
        refuse("finite")
    rule = fields(group)[name].metadata
    if "choices" in rule and value not in rule["choices"]:
        refuse(f"one of {', '.join(rule['choices'])}")
    if "above" in rule and not value > rule["above"]:
        refuse(f"> {rule['above']}")
    if "least" in rule and value < rule["least"]:
        refuse(f">= {rule['least']}")
    if "most" in rule and value > rule["most"]:
        refuse(f"<= {rule['most']}")
    if "below" in rule and not value < rule["below"]:
        refuse(f"< {rule['below']}")
    return value
