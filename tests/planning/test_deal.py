"""Which model methods share, what it costs, and who is refused one."""

import jax
import pytest

from protonorm_jax import models
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan
from protonorm_jax.planning.deal import deal

SETTINGS = Config(method="fml", family="mlp,cnn", num_clients=2, feature_dim=8)


@pytest.mark.parametrize(("asked", "wanted"), [("family", "mlp"), ("tiny_resnet", "tiny_resnet")])
def test_the_shared_model_is_that_of_the_family_or_the_one_asked_for(asked, wanted, small_set):
    config = SETTINGS.replace(shared_model=asked)
    dealt = deal([config], small_set)
    for name in ("mlp", "cnn"):
        cost = models.step_cost(name) + models.step_cost(wanted)
        assert dealt.step_cost[name] == pytest.approx(cost)
    program = plan.program_of(dealt, plan.arrange(dealt, 1, 1, 0, True), True)
    expected = models.build(wanted, num_classes=5, feature_dim=8, image_shape=(8, 8, 1))
    for architecture in program.architectures:
        shapes = [
            jax.eval_shape(model.init, jax.random.key(0))
            for model in (architecture.models.shared, expected)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("method", ["protonorm", "local", "fedavg"])
def test_methods_that_share_no_model_of_their_own_refuse_one(method, small_set):
    config = SETTINGS.replace(method=method, family="mlp", shared_model="cnn")
    with pytest.raises(
        UsageError, match=rf"Config.shared_model must be family for method {method}, .*got 'cnn'"
    ):
        deal([config], small_set)
