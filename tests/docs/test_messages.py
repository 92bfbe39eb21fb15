"""The messages that the page on errors quotes are those of the code."""

import ast
import re

from documents import PAGES, ROOT

CALLS = ("UsageError", "refuse", "warn", "ArgumentTypeError")
FEWEST = 20  # Letters that are fixed; a pattern with fewer would match anything.


def pattern(node):
    """What a message may look like, or None where the source does not say enough."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    fixed = [one.value if isinstance(one, ast.Constant) else None for one in parts]
    if sum(len(one) for one in fixed if isinstance(one, str)) < FEWEST:
        return None
    return re.compile("".join(".*" if one is None else re.escape(str(one)) for one in fixed))


def patterns():
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in CALLS:
                found = pattern(node.args[0]) if node.args else None
                if found is not None:
                    yield found


def test_quoted_messages_are_those_of_the_code():
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/errors.md"], re.M)
    known = list(patterns())
    assert len(quoted) > 30
    assert [one for one in quoted if not any(each.fullmatch(one) for each in known)] == []
