"""How results show in notebooks: HTML without colours of its own, readable on light and dark."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from protonorm_jax import metrics
from protonorm_jax.report import pictures

_COLUMNS = {
    "selected": "in the selected round",
    "": "last round",
    "best": "best round (flatters)",
}


def history_html(title: str, rows: Sequence[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    """A finished run: its accuracies beside the yardstick, its curves, and all of its figures.

    Args:
      title: what was run.
      rows: one for each evaluated round.
      summary: as of `driver.summary`.
    """
    predictors = metrics.predictors(summary)
    columns = {
        ending: words
        for ending, words in _COLUMNS.items()
        if any(_key(name, ending) in summary for name in predictors)
    }
    head = ["accuracy", *columns.values()]
    body = [
        [name, *(_accuracy(summary.get(_key(name, ending))) for ending in columns)]
        for name in predictors
    ]
    yardstick = _accuracy(summary.get("majority_accuracy"))
    body.append(["most frequent class (yardstick)", *[yardstick] * len(columns)])
    figures = [[name, _number(value)] for name, value in summary.items()]
    return (
        f"<p><b>{escape(title)}</b></p>{_table(head, body)}{_curves(rows, summary)}"
        f"<details><summary>all figures</summary>{_table(['', ''], figures)}</details>"
    )


def _key(predictor: str, ending: str) -> str:
    return f"{metrics.column(predictor)}_{ending}".removesuffix("_")


def _curves(rows: Sequence[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    """The curves as a picture within the page; nothing without rows."""
    if not rows:
        return ""
    file = io.BytesIO()
    pictures.draw_curves(rows, dict(summary), file)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        '<img alt="accuracy and loss over rounds" style="max-width: 100%" '
        f'src="data:image/png;base64,{content}">'
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in body]
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
