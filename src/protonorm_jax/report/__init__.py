"""What people read and look at: dicts and arrays in, tables and pictures out."""

from protonorm_jax.report.canvas import drawing, format_of, prepare
from protonorm_jax.report.clients import clients_table, draw_clients
from protonorm_jax.report.notebook import history_html
from protonorm_jax.report.pictures import (
    draw_comparison,
    draw_curves,
    draw_prototypes,
    pairwise_angles,
)
from protonorm_jax.report.predictions import Predicted, draw_confusion, predictions_table
from protonorm_jax.report.states import duration, states_table
from protonorm_jax.report.tables import (
    choices_table,
    comparison_table,
    compiled_table,
    least_table,
    mean_and_error,
    methods_table,
    padded_lines,
    plan_table,
    range_words,
    records_table,
    settings_table,
    sweep_table,
    trials_table,
    verification_lines,
)

__all__ = [
    "Predicted",
    "choices_table",
    "clients_table",
    "comparison_table",
    "compiled_table",
    "draw_clients",
    "draw_comparison",
    "draw_confusion",
    "draw_curves",
    "draw_prototypes",
    "drawing",
    "duration",
    "format_of",
    "history_html",
    "least_table",
    "mean_and_error",
    "methods_table",
    "padded_lines",
    "pairwise_angles",
    "plan_table",
    "predictions_table",
    "prepare",
    "range_words",
    "records_table",
    "settings_table",
    "states_table",
    "sweep_table",
    "trials_table",
    "verification_lines",
]
