"""How settings show: as Python that makes them again, and as HTML in notebooks."""

from collections.abc import Mapping
from html import escape
from typing import Any

from protonorm_jax import settings


def text(config: Any) -> str:
    """The call that makes an equal config, without what has its default."""
    changed, _ = _sorted(config)
    own = {name: value for name, value in changed.items() if "." not in name}
    rest = {name.partition(".")[2]: value for name, value in changed.items() if "." in name}
    words = [f"{name}={_plain(value)!r}" for name, value in own.items()]
    words += [f"method_settings={rest!r}"] if rest else []
    return f"Config({', '.join(words)})"


def html(config: Any) -> str:
    """Two tables: what does not have its default, and folded away what has."""
    changed, others = _sorted(config)
    first = _table(changed) if changed else "<p>all settings have their defaults</p>"
    return (
        f"<p><b>Config</b></p>{first}<details><summary>{len(others)} settings with their "
        f"defaults</summary>{_table(others)}</details>"
    )


def _sorted(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that do not have their defaults, and those that have.

    Settings of the method come last, as `method.setting`.
    """
    found = [("", type(config), {name: getattr(config, name) for name in settings.fields(config)})]
    own = found[0][2].pop("method_settings")
    found.append((f"{config.method}.", settings.groups()[config.method], own))
    changed: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for prefix, group, values in found:
        plain = settings.fields(group)
        for name, value in values.items():
            place = others if value == plain[name].default else changed
            place[f"{prefix}{name}"] = value
    return changed, others


def _plain(value: Any) -> Any:
    """A path as the text that it was given as."""
    return str(value) if isinstance(value, str) else value


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"
