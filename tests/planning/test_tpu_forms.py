"""Whose clients go together on a TPU, by the table in the package."""

import numpy as np
import pytest

from protonorm_jax import models
from protonorm_jax.planning import tpu_forms
from protonorm_jax.planning.layout import Work


def row(net, shape, in_turn, together):
    """A row of the table; kilocycles and seconds of both ways."""
    names = ("kilocycles", "compile_cpu_seconds")
    return {
        "net": net,
        "shape": shape,
        "in_turn": dict(zip(names, in_turn, strict=True)),
        "together": dict(zip(names, together, strict=True)),
    }


@pytest.mark.parametrize(
    ("in_turn", "together", "wanted"),
    [
        ((130, 5), (100, 9), True),
        ((100, 9), (130, 5), False),
        ((124, 5), (100, 9), False),  # Too near each other: what compiles sooner.
        ((100, 9), (110, 5), True),
        ((110, 9), (100, 8), False),  # Nothing speaks for either.
    ],
)
def test_fewer_cycles_win_and_of_equals_what_compiles_sooner(in_turn, together, wanted):
    assert tpu_forms.is_better(tpu_forms.Figures(*in_turn), tpu_forms.Figures(*together)) == wanted


def test_the_nearest_size_counts_and_unknown_nets_take_turns(monkeypatch):
    rows = [row("mlp", [8, 8, 1], (300, 5), (100, 9)), row("mlp", [32, 32, 3], (100, 5), (300, 9))]
    monkeypatch.setattr(tpu_forms, "read", lambda: {"num_clients": 5, "rows": rows})
    assert tpu_forms.go_together("mlp", (10, 10, 1))
    assert tpu_forms.go_together("mlp+64", (8, 8, 1))
    assert not tpu_forms.go_together("mlp", (28, 28, 1))
    assert not tpu_forms.go_together("resnet152", (8, 8, 1))


@pytest.mark.parametrize(
    ("steps", "widths", "wanted"),
    [
        ([9, 9, 9, 9, 9], [5], True),  # As in the table, 9 x 100 against 9 x 300.
        ([9, 1, 1, 1, 1], [5], False),  # 9 x 100 against 13 x 60.
        ([9, 1, 1, 1, 1], [5, 1], True),  # 100 and 8 x 60 against 13 x 60.
        ([9, 9, 1, 1, 1], [5, 2], True),  # 100 and 8 x 70 against 21 x 60.
        ([9, 9, 9, 9, 9], [], False),  # These take turns as it is.
    ],
)
def test_clients_of_unequal_steps_go_together_if_their_batch_is_cheaper(
    steps, widths, wanted, monkeypatch
):
    """One client's step is 60, and each more that is vmapped beside it costs 10."""
    rows = [row("mlp", [8, 8, 1], (300, 5), (100, 9))]
    monkeypatch.setattr(tpu_forms, "read", lambda: {"num_clients": 5, "rows": rows})
    work = [Work("mlp", np.array(steps).reshape(1, 1, -1, max([1, *widths])))]
    better = tpu_forms.better_together(work, [tuple(widths)], (8, 8, 1))
    assert better == ({"mlp"} if wanted else set())


@pytest.mark.parametrize(
    ("others", "wanted"), [(0, {"mlp"}), (1, {"mlp"}), (40, set()), ("resnet152", set())]
)
def test_nobody_goes_together_where_the_whole_round_gains_nothing_by_it(
    others, wanted, monkeypatch
):
    rows = [row("mlp", [8, 8, 1], (300, 5), (100, 9)), row("cnn", [8, 8, 1], (300, 5), (290, 9))]
    monkeypatch.setattr(tpu_forms, "read", lambda: {"num_clients": 5, "rows": rows})
    net, count = ("cnn", others) if isinstance(others, int) else (others, 1)
    work = [
        Work("mlp", np.full((1, 1, 1, 5), 3)),
        Work(net, np.ones((1, 1, count, 1), int)),
    ]
    assert tpu_forms.better_together(work, [(5,), ()], (8, 8, 1)) == wanted


def test_the_table_is_of_known_nets_and_says_what_it_was_made_with():
    found = tpu_forms.read()
    assert found["versions"]["libtpu"] and found["num_clients"] > 1
    for one in found["rows"]:
        assert one["net"] in models.NAMES and len(one["shape"]) == 3
        tpu_forms.go_together(one["net"], one["shape"])
