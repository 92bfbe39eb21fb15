"""What pages show of the code: methods, models, settings and commands, as Markdown."""

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protonorm_jax import config, methods, settings
from protonorm_jax.command import commands
from protonorm_jax.command.methods import described
from protonorm_jax.models import registry

ROOT = Path(__file__).parent.parent
ROOT_PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
"""Pages of the site whose text is a file in the root of the repository."""

_SECTIONS = ("data", "method", "training", "execution")
_WIDTH = "82"  # Of help texts: what a page has room for.


def root_page(name: str) -> str:
    """The text of one of `ROOT_PAGES`, with links as they are within `docs/`."""
    text = (ROOT / ROOT_PAGES[name]).read_text()
    return re.sub(r"\]\((?:docs/)?([\w.-]+\.md)", _moved, text)


def _moved(link: re.Match[str]) -> str:
    pages = {source: name for name, source in ROOT_PAGES.items()}
    return f"]({pages.get(link[1], link[1])}"


def filled(markdown: str) -> str:
    """The text with what its marks such as `<!-- table of methods -->` stand for.

    Raises:
      KeyError: there is no such table.
    """
    return re.sub(r"^<!-- table of (\w+) -->$", lambda m: _TABLES[m[1]](), markdown, flags=re.M)


def all_methods() -> str:
    """A row each: what is sent, and the source."""
    rows = [
        [f"[`{name}`](#{name})", row.up, row.down, _linked(row.source)]
        for name, row in methods.METHODS.items()
    ]
    return _table(("method", "a client sends", "and is sent", "source"), rows)


def each_method() -> str:
    """A section each: the docstring of its factory, and its settings."""
    sections = []
    for name, row in methods.METHODS.items():
        text = _linked(inspect.getdoc(row.factory) or "")
        own = _settings(row.settings, list(settings.fields(row.settings)))
        sections.append(f"## {name}\n\n{text}\n\n{own or 'It has no settings.'}")
    return "\n\n".join(sections)


def families() -> str:
    """The models of each family, in the order in which clients get them."""
    rows = [
        [f"`{name}`", ", ".join(f"`{model}`" for model in models)]
        for name, models in registry.FAMILIES.items()
    ]
    return _table(("family", "models"), rows)


def architectures() -> str:
    """What each model asks of images, and what a step costs."""
    rows = [
        [f"`{name}`", f"{row.smallest} x {row.smallest}", str(row.multiple), f"{row.step_cost:g}"]
        for name, row in registry.ARCHITECTURES.items()
    ]
    return _table(("model", "smallest image", "sides are multiples of", "cost of a step"), rows)


def all_settings() -> str:
    """Those of every run, by section."""
    fields = settings.fields(config.Config)
    sections = []
    for section in _SECTIONS:
        names = [
            name
            for name, field in fields.items()
            if field.metadata["section"] == section and name != "method_settings"
        ]
        sections.append(f"## {section.capitalize()}\n\n{_settings(config.Config, names)}")
    return "\n\n".join(sections)


def all_commands() -> str:
    """The flags of every command, as its help text lists them."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        sections = [
            f"## {name}\n\n{row.description}\n\n```text\n{_help(name)}\n```"
            for name, row in commands.COMMANDS.items()
        ]
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n\n".join(sections)


def _help(name: str) -> str:
    parser = commands.make_parser(name)
    (places,) = [one for one in parser._actions if hasattr(one, "choices") and one.choices]
    _, _, flags = places.choices[name].format_help().rstrip().split("\n\n", 2)
    return flags


def _settings(group: Any, names: list[str]) -> str:
    rows = []
    for name in names:
        about = described(group, name)
        default = f"`{about['default']}`" if about["default"] else "none"
        if about["reference"]:
            default += f" (published code: `{about['reference']}`)"
        words = [about["help"].rstrip(".") + "."]
        if about["traced"]:
            words.append("Traced.")
        if about["tuned"]:
            words.append(f"Tuned: {about['tuned']}.")
        rows.append([f"`{name}`", default, about["allowed"], " ".join(words)])
    return _table(("setting", "default", "may be", "what it is"), rows) if rows else ""


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head)]
    lines += [[cell.replace("|", "&#124;").replace("<", "&lt;") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


_TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        *(all_methods, each_method, families, architectures),
        *(all_settings, all_commands),
    )
}
