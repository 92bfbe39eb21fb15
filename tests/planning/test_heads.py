"""Heads that a method cannot exchange are refused before any work."""

import jax.numpy as jnp
import pytest

from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import driver, job

DEEP = r"hidden\.kernel \[16, 16\], out\.bias \[5\], out\.kernel \[16, 5\]"


def head_of(variables):
    return variables["params"]["head"]


def with_head(variables, head):
    return {**variables, "params": {**variables["params"], "head": head}}


@pytest.fixture
def start(small_set, monkeypatch, tmp_path):
    """Starts a run of which some models have a hidden layer in their heads."""
    build = planning.models.build

    def run(method, family, deep):
        def built(name, **sizes):
            net = build(name, **sizes)
            if name not in deep:
                return net

            def init(key):
                variables = net.init(key)
                hidden = {"kernel": jnp.zeros((16, 16))}
                return with_head(variables, {"hidden": hidden, "out": head_of(variables)})

            def apply(variables, *given, **named):
                return net.apply(with_head(variables, head_of(variables)["out"]), *given, **named)

            return net._replace(init=init, apply=apply, linear_head=False)

        def work(plan):
            raise InterruptedError("work begins")

        monkeypatch.setattr(planning.models, "build", built)
        monkeypatch.setattr(driver, "compile_plan", work)
        config = Config(method=method, family=family, num_clients=4, feature_dim=16, devices=1)
        job.run(config, tmp_path / "new", display=None, dataset=small_set)

    yield run
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "family", "deep", "rule"),
    [
        (
            "lg_fedavg",
            "mlp,cnn",
            {"cnn"},
            "heads of one form for method lg_fedavg, got mlp with "
            rf"bias \[5\], kernel \[16, 5\] and cnn with {DEEP}",
        ),
        ("fedgh", "mlp,cnn", {"cnn"}, "a linear head for method fedgh, got cnn"),
        ("fedgh", "mlp", {"mlp"}, "a linear head for method fedgh, got mlp"),
    ],
)
def test_a_head_that_the_method_cannot_exchange_is_named(start, method, family, deep, rule):
    with pytest.raises(UsageError, match=rf"^Config\.family must have models with {rule}$"):
        start(method, family, deep)


@pytest.mark.parametrize(
    ("method", "deep"),
    [("lg_fedavg", {"mlp", "cnn"}), ("lg_fedavg", {}), ("fedgh", {}), ("fd", {"cnn"})],
)
def test_other_heads_are_not(start, method, deep):
    with pytest.raises(InterruptedError, match="work begins"):
        start(method, "mlp,cnn", deep)
