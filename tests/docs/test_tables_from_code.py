"""What pages show of the code is all there, and can be drawn."""

import re

import formulas
import from_code
import pytest

from documents import PAGES, ROOT
from protonorm_jax import config, methods, settings
from protonorm_jax.command import commands
from protonorm_jax.models import registry


def test_all_methods_with_all_settings():
    text = from_code.filled(PAGES["docs/methods.md"])
    for name, row in methods.METHODS.items():
        assert all(words.replace("|", "&#124;") in text for words in (row.up, row.down))
        (section,) = re.findall(rf"^## {name}$(.*?)(?=^## |\Z)", text, re.M | re.S)
        for setting in settings.fields(row.settings):
            assert f"| `{setting}` |" in section
    assert "| `margin` | `100.0` | > 0 |" in text
    assert "`auto` (published code: `reference`)" in text
    assert "Traced. Tuned: 1 to 200 (log)." in text
    assert "[arXiv:2507.04310](https://arxiv.org/abs/2507.04310)" in text


def test_all_settings_models_and_commands():
    text = from_code.filled(PAGES["docs/settings.md"])
    for name in settings.fields(config.Config):
        assert (f"| `{name}` |" in text) != (name == "method_settings")
    text = from_code.filled(PAGES["docs/models.md"])
    assert all(f"| `{name}` |" in text for name in (*registry.NAMES, *registry.FAMILIES))
    text = from_code.filled(PAGES["docs/commands.md"])
    assert re.findall(r"^## (.*)$", text, re.M) == list(commands.COMMANDS)
    assert "--overwrite" in text and "usage:" not in text
    helps = re.findall(r"^```text$(.*?)^```$", text, re.M | re.S)
    assert len(helps) == len(commands.COMMANDS)
    assert max(len(line) for one in helps for line in one.splitlines()) < 100


def test_a_table_that_there_is_not_is_an_error():
    with pytest.raises(KeyError, match="planets"):
        from_code.filled("<!-- table of planets -->")


@pytest.mark.parametrize("page", [page for page in PAGES if "$" in PAGES[page]])
def test_formulas_can_be_drawn(page):
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", PAGES[page], flags=re.M | re.S)
    for block, inline in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.S):
        made = formulas.mathml(block or inline, block=bool(block))
        assert made.startswith("<math") and "\\" not in made


def test_formulas_of_a_page_become_mathml():
    marked = r'<p>of <span class="arithmatex">\(a &lt; b\)</span>.</p>'
    made = formulas.drawn(marked)
    assert made.startswith("<p>of <math") and "<mo>&lt;</mo>" in made and "arithmatex" not in made


@pytest.mark.large
def test_the_site_is_built_without_a_warning(tmp_path):
    build = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    build.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(r'(?:src|<link[^>]* href)="(https?:[^"]+)"', page.read_text())
        assert fetched == []
