"""What a tuned experiment came to, printed."""

from typing import Any

from protonorm_jax import report
from protonorm_jax.command.console import Console


def show(
    out: Console, choices: list[dict[str, Any]] | None, rows: list[dict[str, Any]], names: list[str]
) -> None:
    """Prints what was chosen, and the results, as far as there are any."""
    if choices:
        out.print(report.choices_table(choices))
    if rows:
        # What was chosen is in the other table.
        tuned = {name for one in choices or () for name in one["point"]}
        out.print(report.sweep_table(rows, [name for name in names if name not in tuned]))
