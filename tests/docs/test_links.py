"""Links lead somewhere, without the help of MkDocs."""

import pkgutil
import posixpath
import re

import from_code
import pytest

from documents import PAGES, ROOT, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page):
    """Those of headings, and of what is quoted from the code."""
    text = from_code.filled(PAGES[page])
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", plain, re.M)
    found = {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}
    return found | set(re.findall(r"^::: (\S+)$", text, re.M))


def is_quoted(page, anchor):
    """Whether it names something of a module that a page quotes."""
    quoted = re.findall(r"^::: (\S+)$", PAGES[page], re.M)
    if not any(anchor.startswith(f"{module}.") for module in quoted):
        return False
    pkgutil.resolve_name(anchor)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(PAGES[page])):
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        target = (
            posixpath.normpath(posixpath.join(posixpath.dirname(page), place)) if place else page
        )
        own = posixpath.relpath(target, "docs")
        target = from_code.ROOT_PAGES.get(own, target)
        assert (ROOT / target).exists(), link
        if anchor:
            assert anchor in anchors(target) or is_quoted(target, anchor), link


def test_every_page_is_in_the_navigation():
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    there = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(named) == sorted([*there, *from_code.ROOT_PAGES])


def test_links_of_pages_from_the_root_are_moved():
    for name in from_code.ROOT_PAGES:
        for link in LINK.findall(prose(from_code.root_page(name))):
            assert (
                re.match(r"https?://", link)
                or f"docs/{link.partition('#')[0]}" in PAGES
                or (link in from_code.ROOT_PAGES)
            )
