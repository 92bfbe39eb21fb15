"""The command `protonorm methods`: what there is, and the settings of one."""

import argparse
import inspect
from typing import Any

from protonorm_jax import methods, report, settings
from protonorm_jax.command import flags
from protonorm_jax.command.console import Console
from protonorm_jax.errors import UsageError

_BOUNDS = {"above": ">", "least": ">=", "most": "<=", "below": "<"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="of one method")
    flags.add_methods(parser)


def command(parsed: argparse.Namespace) -> int:
    """Lists the methods, or the settings of one; returns the exit code.

    Raises:
      UsageError: there is no such method.
    """
    out = Console()
    table = methods.METHODS
    if parsed.name is None:
        rows = [
            {"name": name, "up": row.up, "down": row.down, "source": row.source}
            | {"settings": list(settings.fields(row.settings))}
            for name, row in table.items()
        ]
        out.print(report.methods_table(rows))
        out.say("protonorm methods NAME shows one with its settings")
        return 0
    if parsed.name not in table:
        hint = settings.hint(parsed.name, table)
        raise UsageError(f"NAME must be one of {', '.join(table)}, got {parsed.name!r}{hint}")
    row = table[parsed.name]
    text = inspect.getdoc(row.factory) or "(its factory has no docstring)"
    out.print(f"{parsed.name}: {text}\n")
    for name, words in (("up", row.up), ("down", row.down), ("source", row.source)):
        if words:
            out.print(f"{name:<8}{words}")
    own = settings.fields(row.settings)
    if own:
        out.print(report.settings_table([described(row.settings, name) for name in own]))
    else:
        out.say("It has no settings.")
    return 0


def described(group: Any, name: str) -> dict[str, Any]:
    """What there is to say of a setting of a group, in words by column."""
    field = settings.fields(group)[name]
    rule = field.metadata
    bounds = [f"{sign} {rule[key]}" for key, sign in _BOUNDS.items() if key in rule]
    allowed = ", ".join(rule.get("choices", bounds)) or settings.field_type(group, name)[0].__name__
    return {
        "name": name,
        "default": flags.worded(field.default),
        "reference": "" if rule["reference"] is None else flags.worded(rule["reference"]),
        "allowed": allowed,
        "traced": rule["traced"],
        "tuned": report.range_words(rule["tune"]._asdict()) if rule["tune"] else "",
        "help": rule["help"],
    }
