"""What MkDocs does beside its own: tables from the code, formulas, and pages from the root."""

from typing import Any

import formulas
import from_code
from mkdocs.structure.files import File


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages whose text is in the root of the repository."""
    for name in from_code.ROOT_PAGES:
        files.append(File.generated(config, name, content=from_code.root_page(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts tables where a page asks for them."""
    return from_code.filled(markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Draws the formulas."""
    return formulas.drawn(content)
