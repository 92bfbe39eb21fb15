"""Names that users gave, as HTML, JSON, CSV and LaTeX can hold them."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

from protonorm_jax.report.canvas import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # With these a cell is a formula to spreadsheets.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_IN_JSON = {letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029\x7f"}
_IN_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # Not to be read as an optional argument of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "°": r"$^\circ$",
    "…": r"\ldots{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}


def name(value: Any) -> str:
    """A value as one line of letters that can be seen; others by their number, as in `\\x1b`."""
    return printable(str(value))


def short(value: Any, most: int = 28) -> str:
    """As `name`, with the middle left out where it is longer than `most` letters."""
    text = name(value)
    end = (most - 1) // 3
    return text if len(text) <= most else f"{text[: most - 1 - end]}…{text[-end:]}"


def json_text(value: Any) -> Markup:
    """JSON that may stand in a `<script>` element; numbers that JSON lacks must be None."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029\x7f]", lambda found: _IN_JSON[found[0]], text))


def latex(value: Any) -> str:
    """Text as LaTeX prints it; letters beyond ASCII need an engine or a font that has them."""
    return "".join(_IN_LATEX.get(letter, letter) for letter in name(value))


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file of RFC 4180, whose text no spreadsheet takes for a formula.

    Args:
      head: names of the columns.
      rows: texts, numbers (written in full), and None for an empty cell.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(map(_cell, head))
    writer.writerows(map(_cell, row) for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    # Blanks before it are left out by some programs.
    formula = text.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return name(f"'{text}" if formula else text)


def preformatted(text: str) -> Markup:
    """The text of a file within `<pre>`, which drops a first line break."""
    return Markup("\n") + escape("\n".join(map(name, text.splitlines())))
