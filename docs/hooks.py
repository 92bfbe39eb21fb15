"""What MkDocs does beside its own: tables from the code, formulas, and pages from the root."""

import html
import re
from typing import Any

import tables
from docutils.utils.math import latex2mathml
from mkdocs.structure.files import File

_FORMULA = re.compile(
    r'<(?:span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages whose text is in the root of the repository."""
    for name in tables.ROOT_PAGES:
        files.append(File.generated(config, name, content=tables.root_page(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts tables where a page asks for them."""
    return tables.filled(markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Makes MathML of formulas, which browsers draw without the help of a script."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tex = html.unescape(found["tex"]).strip()
    made = str(latex2mathml.tex2mathml(tex, as_block=found["kind"] == "["))
    return re.sub(r"\n\s*", "", made)
