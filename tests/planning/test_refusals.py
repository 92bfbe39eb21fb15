"""Models that a method cannot exchange are refused before anything is compiled."""

import re

import optax
import pytest

from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan
from protonorm_jax.running import job


def check(heads, *names):
    """Checks models of these names for a method that takes such heads."""
    nets = {
        name: models.build(name, num_classes=5, feature_dim=8, image_shape=(8, 8, 1))
        for name in names
    }
    method = methods.build("local", methods.Setup(5, 8, 2, 3, 4), {})._replace(heads=heads)
    plan._check_heads(method, Config(method="local"), nets)


def test_a_method_gets_the_heads_that_it_takes():
    check("any", "mlp", "mlp+6", "tiny_vit+6")
    check("equal", "mlp+6", "tiny_vit+6")
    check("equal", "mlp", "tiny_vit")
    check("linear", "mlp", "tiny_vit")


@pytest.mark.parametrize(
    ("heads", "names", "message"),
    [
        ("equal", ("mlp", "mlp+6"), "mlp with bias [5], kernel [8, 5] and mlp+6 with 0.bias [6],"),
        ("equal", ("mlp+6", "cnn+7"), "mlp+6 with 0.bias [6], 0.kernel [8, 6], 1.bias [5], 1.k"),
        ("linear", ("mlp", "mlp+6"), "a linear head for method local, got mlp+6"),
    ],
)
def test_other_heads_are_refused(heads, names, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check(heads, *names)


def test_whole_models_are_averaged_only_with_one_head(small_set):
    settings = Config(num_clients=2, alpha=1.0, feature_dim=8, devices=1, method="fedavg")
    with pytest.raises(UsageError, match=r"one model for method fedavg.* with mlp, mlp\+6"):
        plan.make([settings.replace(family="mlp,mlp+6")], small_set)
    made = plan.make([settings.replace(family="mlp+6")], small_set)
    assert made.architectures == ("mlp+6", "mlp+6")


@pytest.mark.parametrize(
    ("method", "family", "rule"),
    [
        (
            "lg_fedavg",
            "mlp,cnn+6",
            "heads of one form for method lg_fedavg, got mlp with bias [5], kernel [8, 5] and "
            "cnn+6 with 0.bias [6], 0.kernel [8, 6], 1.bias [5], 1.kernel [6, 5]",
        ),
        ("fedgh", "mlp,cnn+6", "a linear head for method fedgh, got cnn+6"),
        ("fedgh", "mlp+6", "a linear head for method fedgh, got mlp+6"),
        ("fedgen", "cnn,mlp+6", "a linear head for method fedgen, got mlp+6"),
    ],
)
def test_a_run_with_such_heads_is_refused(method, family, rule, small_set, tmp_path):
    settings = Config(num_clients=4, feature_dim=8, devices=1, method=method, family=family)
    with pytest.raises(
        UsageError, match=rf"^{re.escape(f'Config.family must have models with {rule}')}$"
    ):
        job.run(settings, tmp_path / "new", display=None, dataset=small_set)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def row():
    """A method with an optimiser of its own, in the table."""

    def stubborn(setup, fixed):
        return methods.Method(optimizer=lambda round: optax.adam(round.learning_rate))

    methods.METHODS["stubborn"] = methods.Row(stubborn)
    yield
    del methods.METHODS["stubborn"]


def test_a_choice_of_optimizer_that_a_method_does_not_follow_is_refused(row, small_set):
    """All that the engine does itself is followed."""
    config = Config(num_clients=2, family="mlp", feature_dim=8, devices=1, method="stubborn")
    for change in ({"momentum": 0.9}, {"optimizer": "adamw"}, {"weight_decay": 0.1}):
        ((name, value),) = change.items()
        message = f"Config.{name} must be left out for method stubborn, which has an optimizer"
        with pytest.raises(UsageError, match=re.escape(message) + f".*got {value!r}"):
            plan.make([config.replace(**change)], small_set)
    for method in ("fedkd", "fml", "fedl2g"):
        plan.make([config.replace(method=method, optimizer="adam")], small_set)
    plan.make([config.replace(clip_norm=1.0, schedule="cosine")], small_set)
