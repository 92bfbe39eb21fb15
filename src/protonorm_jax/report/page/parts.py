"""What the page is put together from."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from protonorm_jax.report.page.tables import Table


class Figure(NamedTuple):
    """A picture.

    Attributes:
      picture: an `<svg>` element.
      caption: what is seen, in sentences.
      across: whether it takes the whole width.
    """

    picture: Markup
    caption: str
    across: bool = False


class Part(NamedTuple):
    """A part of a section.

    Attributes:
      anchor: of its address, within the section.
      title: of it.
      text: paragraphs.
      warnings: paragraphs that must not be missed.
      facts: names and values.
      tables: shown.
      legend: of the pictures: CSS class of the colour, class of the line, label.
      figures: pictures.
      small: pictures that are narrow.
      folded: parts that are shown only when asked for.
      exploratory: whether it is no part of what was declared.
    """

    anchor: str
    title: str
    text: Sequence[str] = ()
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    legend: Sequence[tuple[str, str, str]] = ()
    figures: Sequence[Figure] = ()
    small: Sequence[Figure] = ()
    folded: Sequence["Part"] = ()
    exploratory: bool = False


class Section(NamedTuple):
    """One comparison.

    Attributes:
      anchor: of its address.
      title: of it.
      verdict: what its figures say, in sentences.
      warnings: what must not be missed.
      parts: of it.
    """

    anchor: str
    title: str
    verdict: Sequence[str]
    warnings: Sequence[str]
    parts: Sequence[Part]


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence lists them."""
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun, such as `1 run` and `2 runs`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
