"""Our variables under the names and in the layouts of PyTorch."""

import jax
import numpy as np
import pytest
from test_models import GOLDEN, LARGE, REFERENCES, reference_weights

from protonorm_jax import models
from protonorm_jax.errors import UsageError


def names():
    for name in REFERENCES:
        yield pytest.param(name, marks=[pytest.mark.large] * (name.split("+")[0] in LARGE))


@pytest.mark.parametrize("name", list(names()))
def test_names_and_layouts_are_those_of_the_reference(name):
    given = reference_weights(np.load(GOLDEN / f"forward_{REFERENCES[name]}.npz"))
    given = {key: one for key, one in given.items() if "num_batches_tracked" not in key}

    found = models.to_torch(name, models.from_torch(name, given))

    assert found.keys() == given.keys()
    for key, array in given.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
        assert found[key].dtype == np.float32 and found[key].flags.c_contiguous


@pytest.mark.parametrize("name", ["mlp", "mlp+24+7", "cnn", "tiny_vit+24", "tiny_mobilenet"])
def test_there_and_back_is_exact(name):
    sizes = {"num_classes": 4, "feature_dim": 12, "image_shape": (8, 8, 1)}
    model = models.build(name, **sizes)
    leaves, structure = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    generator = np.random.default_rng(0)
    drawn = [generator.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    variables = jax.tree.unflatten(structure, drawn)

    back = models.from_torch(name, models.to_torch(name, variables), image_shape=(8, 8, 1))

    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_variables_of_another_model_are_refused():
    sizes = {"num_classes": 4, "feature_dim": 12, "image_shape": (8, 8, 1)}
    template = jax.eval_shape(models.build("mlp", **sizes).init, jax.random.key(0))
    with pytest.raises(UsageError, match=r"must have .* for mlp\+5, got 6 arrays"):
        models.to_torch("mlp+5", jax.tree.map(lambda leaf: np.zeros(leaf.shape), template))
    with pytest.raises(UsageError, match=r"must have .*\['mean'\] for resnet4"):
        models.to_torch("resnet4", {"params": {}, "batch_stats": {}})
