"""Whose clients go together on a TPU, by the table in the package."""

import pytest

from protonorm_jax import models
from protonorm_jax.planning import tpu_forms


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
    assert tpu_forms.is_better_together(row("mlp", [8, 8, 1], in_turn, together)) == wanted


def test_the_nearest_size_counts_and_unknown_nets_take_turns(monkeypatch):
    rows = [row("mlp", [8, 8, 1], (300, 5), (100, 9)), row("mlp", [32, 32, 3], (100, 5), (300, 9))]
    monkeypatch.setattr(tpu_forms, "read", lambda: {"rows": rows})
    assert tpu_forms.go_together("mlp", (10, 10, 1))
    assert tpu_forms.go_together("mlp+64", (8, 8, 1))
    assert not tpu_forms.go_together("mlp", (28, 28, 1))
    assert not tpu_forms.go_together("resnet152", (8, 8, 1))


def test_the_table_is_of_known_nets_and_says_what_it_was_made_with():
    found = tpu_forms.read()
    assert found["versions"]["libtpu"] and found["num_clients"] > 1
    for one in found["rows"]:
        assert one["net"] in models.NAMES and len(one["shape"]) == 3
        tpu_forms.is_better_together(one)
