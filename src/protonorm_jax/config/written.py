"""Config files as they are written for people: every setting, with its default and its help."""

import json
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from protonorm_jax import documents, settings
from protonorm_jax.config.fields import Config

FORMS = ("toml", "yaml", "json")
_WIDTH = 96


def text_of(config: Config, form: str) -> str:
    """A config file from which `read_file` and `from_recorded` make an equal config.

    Args:
      config: its settings.
      form: one of `FORMS`; JSON has no comments.
    """
    config = _settled(config)
    if form == "json":
        return json.dumps(config.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    line, table = {"toml": (_toml_line, "[{}]"), "yaml": (_yaml_line, "{}:")}[form]
    indent = "  " if form == "yaml" else ""
    lines = list(_fields(config, line))
    group = settings.groups()[config.method]
    if settings.fields(group):
        lines += ["", *_comment(f"Settings of {config.method}", ""), table.format(config.method)]
        for name, value in config.method_settings.items():
            lines += _setting(group, name, value, line, indent)
    return "\n".join(lines) + "\n"


def _settled(config: Config) -> Config:
    """The same settings; paths that are relative to another directory than this are absolute."""
    away = {
        name: settings.located(kind, getattr(config, name))
        for name, kind in settings.paths(Config).items()
        if getattr(getattr(config, name), "base", os.getcwd()) != os.getcwd()
    }
    return config.replace(**away) if away else config


def _fields(config: Config, line: Callable[[str, Any], str]) -> Iterator[str]:
    """The fields of `Config` by section."""
    section = None
    for name, field in settings.fields(Config).items():
        if name == "method_settings":
            continue
        if field.metadata["section"] != section:
            yield from [] if section is None else [""]
            section = field.metadata["section"]
            yield from _comment(section.capitalize(), "")
        yield from _setting(Config, name, getattr(config, name), line, "")


def _setting(
    group: Any, name: str, value: Any, line: Callable[[str, Any], str], indent: str
) -> Iterator[str]:
    field = settings.fields(group)[name]
    default = "nothing" if field.default in ("", None) else _worded(field.default)
    choices = field.metadata.get("choices")
    allowed = f"; one of {', '.join(choices)}" if choices else ""
    yield ""
    yield from _comment(f"{field.metadata['help']}{allowed} (default {default})", indent)
    yield indent + ("# " if value is None else "") + line(name, value)


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {one}" for one in textwrap.wrap(text, _WIDTH - len(indent))]


def _worded(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _toml_line(name: str, value: Any) -> str:
    import tomlkit

    return f"{name} = {'' if value is None else tomlkit.item(_plain(value)).as_string()}"


def _yaml_line(name: str, value: Any) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what either version of YAML would take for something else than text."""

    documents.resolve_as_1_2(Dumper, also=True)
    text = yaml.dump(
        _plain(value), Dumper=Dumper, width=float("inf"), allow_unicode=True, explicit_end=False
    )
    return f"{name}: {text.removesuffix('...' + chr(10)).rstrip(chr(10))}"


def _plain(value: Any) -> Any:
    """Text that knows more than text does, such as a path, as text alone."""
    return str(value) if isinstance(value, str) else value
