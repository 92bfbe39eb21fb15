"""Pictures of whatever a run may leave: one round, nobody tested, one class, nothing at all."""

import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib import cbook, figure

from protonorm_jax import report
from protonorm_jax.report import canvas

SUMMARY = {"method": "protonorm", "majority_accuracy": 0.5}
FORMULA = {**SUMMARY, "method": "$x$"}
FULL = {"round": 1, "head_accuracy": 0.5, "prototype_accuracy": 0.25, "loss": 2.0, "mse": 0.0}


@pytest.fixture(autouse=True)
def nothing_is_hidden(monkeypatch):
    """What matplotlib warns of is an error here, though users never see it."""
    monkeypatch.setattr(warnings, "simplefilter", lambda *_: None)


def drawn(draw, *given, **options):
    """The picture, and the figure that it is of."""
    file, figures = io.BytesIO(), []
    save = figure.Figure.savefig

    def keep(self, *arguments, **settings):
        figures.append(self)
        save(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure.Figure, "savefig", keep)
        draw(*given, file, **options)
    assert file.getvalue().startswith(b"\x89PNG")
    return figures[0]


@pytest.mark.parametrize(
    "rows",
    [
        [FULL],
        [FULL, {**FULL, "round": 2}],
        [{"round": 1, "head_accuracy": None, "loss": None}],
        [{"round": 1, "head_accuracy": 0.0, "loss": 0.0}],
        [{"round": 1, "head_accuracy": None, "loss": None}, {**FULL, "round": 2}],
        [{"round": 1}],
    ],
    ids=["one round", "two", "nobody tested", "zero", "nobody at first", "nothing"],
)
@pytest.mark.parametrize("yardstick", [0.5, None])
def test_curves(rows, yardstick):
    drawn(report.draw_curves, rows, {**SUMMARY, "majority_accuracy": yardstick})
    runs = [({**SUMMARY, "majority_accuracy": yardstick}, rows), (SUMMARY, [])]
    drawn(report.draw_comparison, runs, ["_one", "$two^"])


def test_an_accuracy_of_zero_is_a_point_and_a_loss_of_zero_is_a_gap():
    rows = [FULL | {"head_accuracy": 0.0}, FULL | {"round": 2, "loss": 0.0}]
    accuracy, loss = drawn(report.draw_curves, rows, SUMMARY).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert lines["head"] == [0.0, 0.5]
    (only,) = [line for line in loss.lines if line.get_label() == "loss"]
    np.testing.assert_array_equal(only.get_ydata(), [2.0, np.nan])


@pytest.mark.parametrize("known", [0, 1, 2])
@pytest.mark.parametrize("value", [1.0, 0.0, np.nan])
def test_prototypes(known, value):
    arrays = {
        "class_means": np.full((3, 4), value),
        "prototypes": np.eye(3, 4),
        "known": np.arange(3) < known,
    }
    drawn(report.draw_prototypes, arrays)


def test_names_are_shown_as_they_are():
    """Also those that matplotlib would hide, or take for a formula."""
    runs = [(SUMMARY, [FULL]), (SUMMARY, [FULL])]
    for axes in drawn(report.draw_comparison, runs, ["_one", "$two$\udc80"]).axes:
        one, two, *_ = [text.get_text() for text in axes.get_legend().get_texts()]
        assert one == "./_one" and two.replace(r"\$", "$") == "$two$\\udc80"
        assert not cbook.is_math_text(two)
    titles = [axes.get_title() for axes in drawn(report.draw_curves, [FULL], FORMULA).axes]
    assert titles[0] == r"\$x\$: accuracy" and not cbook.is_math_text(titles[0])


def test_powers_of_ten_are_formulas():
    """Without which the axis of losses would show how they are written."""
    losses = drawn(report.draw_curves, [FULL, {**FULL, "round": 2, "loss": 200.0}], SUMMARY).axes[1]
    labels = losses.get_yticklabels()
    assert any("10^" in one.get_text() for one in labels)
    assert all(one.get_parse_math() for one in labels)


@pytest.mark.parametrize("form", canvas.FORMATS)
def test_every_format_can_be_written(form):
    file = io.BytesIO()
    report.draw_comparison([(SUMMARY, [FULL])], ["one"], file, form)
    assert file.getvalue()


def test_settings_of_the_users_own_change_nothing(tmp_path):
    """A folder's matplotlibrc, and a backend that is not there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nno key: 3\nfont.size: much\n")
    draw = (
        "import io; from protonorm_jax import report; file = io.BytesIO()\n"
        "report.draw_curves([{'round': 1, 'loss': 1.0}], {'method': 'x', 'majority_accuracy': 1},"
        "file); print(len(file.getvalue()) > 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", draw],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "module://none.such"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
