"""Formulas of pages, which browsers draw as MathML without the help of a script."""

import html
import re

from docutils.utils.math import latex2mathml

_FORMULA = re.compile(
    r'<(?:span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?:span|div)>',
    re.DOTALL,
)


def drawn(content: str) -> str:
    """The HTML of a page with MathML in place of what `pymdownx.arithmatex` has marked."""
    return _FORMULA.sub(
        lambda found: mathml(html.unescape(found["tex"]), block=found["kind"] == "["), content
    )


def mathml(tex: str, *, block: bool) -> str:
    """A formula of LaTeX as MathML.

    Args:
      tex: without the dollars.
      block: whether it stands on lines of its own.

    Raises:
      docutils.utils.math.MathError: there is something in it that docutils does not know.
    """
    made = str(latex2mathml.tex2mathml(tex.strip(), as_block=block))
    return re.sub(r"\n\s*", "", made)
