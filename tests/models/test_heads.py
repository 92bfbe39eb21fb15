"""Heads of more than one layer: their names, what they compute, and weights from PyTorch."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from protonorm_jax import models
from protonorm_jax.errors import UsageError
from protonorm_jax.models import heads, registry
from protonorm_jax.types import linear_classify

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def build(name, feature_dim=20):
    return models.build(name, num_classes=10, feature_dim=feature_dim, image_shape=(8, 8, 1))


def test_names_may_say_what_the_head_is():
    family = models.family("mlp, shufflenet_v2_x1_0+64,tiny_vit+16+08")
    assert family == ("mlp", "shufflenet_v2+64", "tiny_vit+16+8")
    assert models.step_cost("shufflenet_v2_x1_0+64") == models.step_cost("shufflenet_v2")
    assert models.shared_model("resnet8+16,mlp") == "resnet8+16"
    for name in ("mlp+", "mlp+0", "mlp+8.5", "mlp+wide", "mlp+-3"):
        with pytest.raises(UsageError, match=r"widths .* >= 1 as in mlp\+256 or .*, got 'mlp\+"):
            models.family(f"cnn,{name}")
    with pytest.raises(UsageError, match=r"one of mlp, .*got 'resnet9\+8' .did you mean 'resnet"):
        build("resnet9+8")


def test_families_with_heads_of_several_layers():
    """HtFLlib's: heads in turn on all models, and vision transformers behind the other eight."""
    widths = ((), (512,), (256,), (128,))
    for name, base, times in (("htfe8_htc4", "htfe8", 2), ("res34_htc4", "resnet34", 1)):
        bases, found = zip(*map(heads.split, models.family(name)), strict=True)
        assert found == times * widths
        assert bases == models.family(base) * (len(bases) // len(models.family(base)))
    *rest, first, second = models.family("htm10")
    assert tuple(rest) == models.family("htfe8")
    assert (first, second) == ("vit_b_16+768", "vit_b_32+768")


def test_the_table_of_parameters_and_what_is_said_of_a_head():
    for name, widths in (("mlp", ()), ("mlp+8", (8,)), ("tiny_vit+8+6", (8, 6))):
        model = build(name)
        assert model.linear_head == (not widths)
        head = jax.eval_shape(model.init, jax.random.key(0))["params"]["head"]
        sizes = [20, *widths, 10]
        layers = {
            str(place): {"kernel": (sizes[place], sizes[place + 1]), "bias": (sizes[place + 1],)}
            for place in range(len(widths) + 1)
        }
        expected = layers if widths else layers["0"]
        assert jax.tree.map(lambda leaf: leaf.shape, head) == expected


# By PyTorch's names of the layers: as the reference has them, and as torchvision.
@pytest.mark.parametrize(
    ("kind", "name", "layers"),
    [
        ("relu", "mlp+24+7", ("head.fc.0", "head.fc.2", "head.fc.4")),
        ("tanh", "tiny_vit+24", ("heads.pre_logits", "heads.head")),
    ],
)
def test_heads_give_the_numbers_of_torch(kind, name, layers):
    golden = np.load(GOLDEN / "heads.npz")
    names, shapes = golden[f"{kind}/names"], golden[f"{kind}/shapes"]
    shapes = [tuple(map(int, str(shape).strip("[]").split(","))) for shape in shapes]
    head = weights.state_dict(dict(zip(map(str, names), shapes, strict=True)))
    assert tuple(golden[f"{kind}/widths"]) == tuple(map(int, name.split("+")[1:]))
    named = [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]
    loaded = models.from_torch(
        name,
        {**of_a_base(name), **dict(zip(named, head.values(), strict=True))},
        image_shape=(8, 8, 1),
    )
    model = build(name)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), loaded["params"])

        def loss(head, features):
            logits = model.classify({"params": {"head": head}}, features)
            scores = jax.nn.log_softmax(logits)[np.arange(8), golden["labels"]]
            return -jnp.mean(scores), logits

        run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        (gradients, features_gradient), logits = run(params["head"], golden["features"])

    np.testing.assert_allclose(logits, golden[f"{kind}/logits"], atol=1e-9)
    np.testing.assert_allclose(features_gradient, golden[f"{kind}/features_grad"], atol=1e-9)
    found = [
        np.linalg.norm(gradients[str(place)][leaf])
        for place in range(len(layers))
        for leaf in ("kernel", "bias")
    ]
    np.testing.assert_allclose(found, golden[f"{kind}/grad_norms"], rtol=1e-7)


def of_a_base(name):
    """Zeros, by PyTorch's names, for the base of a model."""
    template = jax.eval_shape(build(name).init, jax.random.key(0))["params"]["base"]
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(template):
        *modules, kind = [entry.key for entry in path]
        kind = {"kernel": "weight", "scale": "weight"}.get(kind, kind)
        key = ".".join([*modules, kind]).replace(".in_proj.", ".in_proj_")
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, range(leaf.ndim))
        arrays[key] = np.zeros([leaf.shape[axis] for axis in axes], np.float32)
    return arrays


def test_weights_with_another_head_than_the_name_says():
    arrays = {**of_a_base("mlp"), "head.0.weight": np.ones((5, 20)), "head.0.bias": np.ones(5)}
    arrays |= {"head.2.weight": np.ones((3, 5)), "head.2.bias": np.ones(3)}
    with pytest.raises(UsageError, match=r"mlp, 1, got head.0, head.2 in 8 arrays"):
        models.from_torch("mlp", arrays, image_shape=(8, 8, 1))
    with pytest.raises(UsageError, match=r"'head.0.bias'\] must be \(6,\) for mlp\+6, got"):
        models.from_torch("mlp+6", arrays, image_shape=(8, 8, 1))
    loaded = models.from_torch("mlp+5", arrays, image_shape=(8, 8, 1))
    assert loaded["params"]["head"]["1"]["kernel"].shape == (5, 3)


def test_the_whole_model_and_its_head_agree_and_dropout_stands_before_the_head(monkeypatch):
    monkeypatch.setitem(
        registry.ARCHITECTURES, "dropped", registry.ARCHITECTURES["mlp"]._replace(dropout=0.5)
    )
    key = jax.random.key(1)
    for name in ("dropped", "dropped+6"):
        model = build(name)

        @jax.jit
        def run(images, model=model):
            variables = model.init(jax.random.key(0))
            outputs, _ = model.apply(variables, images)
            features = outputs.features
            dropped = [model.classify(variables, features, train=True, key=k) for k in (key, None)]
            given = model.classify(variables, features, key=key)
            return variables, outputs, given, dropped

        images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
        variables, outputs, given, (dropped, kept) = run(images)
        np.testing.assert_array_equal(given, outputs.logits)
        np.testing.assert_array_equal(kept, outputs.logits)
        assert np.abs(dropped - kept).max() > 0.01
        if name == "dropped":
            expected = linear_classify(variables, outputs.features)
            np.testing.assert_allclose(given, expected, rtol=1e-6)
