"""Which of many records are wanted, in which order: by settings and results, as people write it."""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from protonorm_jax import config, settings
from protonorm_jax.errors import UsageError
from protonorm_jax.running.records import Record

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


class Condition(NamedTuple):
    """What is asked of a record, as `scale>=20` or `fedtgp.margin=100`.

    Attributes:
      name: of a setting or result, perhaps with its method before a dot.
      sign: one of `=`, `!=`, `<`, `<=`, `>` and `>=`.
      text: what it is compared with.
    """

    name: str
    sign: str
    text: str


def parse(text: str) -> Condition:
    """What a text asks.

    Raises:
      UsageError: it asks nothing.
    """
    found = re.fullmatch(r"\s*([\w.-]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", text)
    if not found:
        raise UsageError(
            f"--where must be NAME=VALUE, or with one of {', '.join(_OPERATORS)}, got {text!r}"
        )
    name, sign, value = found.groups()
    return Condition(name.replace("-", "_"), sign, value)


def value_of(record: Record, name: str) -> Any:
    """A setting or result of a record by its name; None where the record has none.

    With the name of a method before a dot, only runs of that method have it.
    """
    owner, dot, plain = name.rpartition(".")
    if dot and record.settings.get("method") != owner:
        return None
    return record.flat().get(plain)


def check_names(records: Sequence[Record], names: Iterable[str], flag: str) -> None:
    """Refuses names that no record has.

    Args:
      records: all there are.
      names: as for `value_of`.
      flag: that gave them.

    Raises:
      UsageError: a name that means nothing; says which is like it.
    """
    known = dict.fromkeys(settings.fields(config.Config))
    known |= dict.fromkeys(name for record in records for name in record.flat())
    del known["method_settings"]
    methods = dict.fromkeys(str(record.settings.get("method")) for record in records)
    for name in names:
        owner, dot, plain = name.rpartition(".")
        if dot and owner not in methods:
            raise UsageError(
                f"{flag} must name a method of these runs before the dot, {', '.join(methods)}, "
                f"got {name!r}{settings.hint(owner, methods)}"
            )
        if plain not in known:
            raise UsageError(
                f"{flag} must be a setting or a result of these runs, got {name!r}"
                f"{settings.hint(plain, known)}"
            )


def select(records: Sequence[Record], conditions: Sequence[Condition]) -> list[Record]:
    """The records that fulfil all conditions; one without a value fulfils `!=` alone.

    Raises:
      UsageError: a value of another type than the records'.
    """
    return [one for one in records if all(_holds(one, condition) for condition in conditions)]


def _holds(record: Record, condition: Condition) -> bool:
    value = value_of(record, condition.name)
    if value is None:
        return condition.sign == "!="
    return _OPERATORS[condition.sign](value, _wanted(condition, value))


def _wanted(condition: Condition, value: Any) -> Any:
    """What a value is compared with, in the value's own type."""
    name, sign, text = condition

    def refuse(words: str) -> UsageError:
        return UsageError(f"--where {name} must be compared with {words}, got {name}{sign}{text}")

    if isinstance(value, bool):
        if text.lower() not in _WORDS or sign not in ("=", "!="):
            raise refuse("true or false, by = or !=")
        return _WORDS[text.lower()]
    if isinstance(value, int | float):
        try:
            return float(text)
        except ValueError as error:
            raise refuse("a number") from error
    if sign not in ("=", "!="):
        raise refuse("a text by = or !=")
    return text


def ordered(records: Sequence[Record], name: str, *, descending: bool = False) -> list[Record]:
    """The records by a setting or result, those without it last, equal ones as they were."""
    having = [one for one in records if value_of(one, name) is not None]
    rest = [one for one in records if value_of(one, name) is None]

    def key(record: Record) -> tuple[bool, Any]:
        value = value_of(record, name)
        return (True, value) if isinstance(value, int | float) else (False, str(value))

    return sorted(having, key=key, reverse=descending) + rest


def varying(records: Sequence[Record]) -> list[str]:
    """The settings besides method and seed in which those records differ that have them."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.settings.items():
            values.setdefault(name, set()).add(repr(value))
    return [
        name for name, found in values.items() if len(found) > 1 and name not in ("method", "seed")
    ]
