"""What the README and the pages in `docs/` consist of: code, commands, links and anchors."""

import pathlib
import re
from typing import NamedTuple

import from_code

ROOT = pathlib.Path(__file__).parent.parent

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", *from_code.ROOT_PAGES.values())),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
"""The text of each by its path in the repository."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)


class Block(NamedTuple):
    """A block of code.

    Attributes:
      language: as it is marked, such as `sh`.
      code: the text.
      mark: what the comment before it says: `run`, or `file NAME`; else empty.
    """

    language: str
    code: str
    mark: str


def blocks(page: str, language: str = "") -> list[Block]:
    """Those of a page in a language, by default in any, in order."""
    found = [
        Block(one["language"], one["code"], one["mark"] or "")
        for one in _BLOCK.finditer(PAGES[page])
    ]
    return [one for one in found if language in ("", one.language)]


def lines(code: str) -> list[str]:
    """The commands of a block of `sh`, each on one line."""
    whole = code.replace("\\\n", " ").splitlines()
    return [line for line in whole if line.strip() and not line.startswith("#")]


def prose(text: str) -> str:
    """The text without blocks of code and what is quoted within lines."""
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", text))
