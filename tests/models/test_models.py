"""Models against the reference implementation's numbers, and the contract that all of them keep."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from protonorm_jax import models
from protonorm_jax.errors import UsageError
from protonorm_jax.models.architectures import efficientnet, googlenet
from protonorm_jax.models.layers.initialization import initialize
from protonorm_jax.models.registry import ARCHITECTURES, resolve

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
QUICKLY = {"xla_backend_optimization_level": 0}
"""How to compile what runs only once."""

REFERENCES = {
    "fedavg_cnn": "fedavg_cnn",
    "resnet8": "resnet8",
    "resnet18": "resnet18",
    "mobilenet_v2": "mobilenet_v2",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "efficientnet_b0": "efficientnet_b0",
    "resnet4": "resnet4",
    "resnet6": "resnet6",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "googlenet": "googlenet",
    "tiny_vit": "tiny_vit",
    "vit_b_16+768": "vit_b_16+768",
    "vit_b_32+768": "vit_b_32+768",
}
LARGE = ("googlenet", "resnet50", "resnet101", "resnet152", "vit_b_16", "vit_b_32")

# Gradients take longest to compile; these have no layer of which another's are not compared.
ONLY_FORWARDS = ("resnet18", "efficientnet_b0")
# Their layers' gradients are compared in `test_layers`, and as a whole by `make test-large`.
GRADIENTS_LATER = ("mobilenet_v2", "shufflenet_v2")


def reference_weights(golden):
    """Returns the reference's state dict."""
    shapes = {
        str(name): tuple(int(size) for size in str(shape).strip("[]").split(",") if size)
        for name, shape in zip(golden["names"], golden["shapes"], strict=True)
    }
    return weights.state_dict(shapes)


def tensor_name(path, known):
    """Returns the reference's name of a leaf of `params` or `batch_stats`."""
    *modules, leaf = [entry.key for entry in path]
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    name = ".".join([*modules, leaf]).replace(".in_proj.", ".in_proj_")
    if name in known:
        return name
    if "head.1." in name:  # Of two layers, between which the activation stands.
        return name.replace("head.1.", "head.2.")
    return name.replace("head.", "head.1.")


def norms(tree, known):
    """Returns the norm of every array of `tree`, by the reference's names."""
    return {
        tensor_name(path, known): float(np.linalg.norm(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def golden_norms(golden, kind, tensors):
    """Returns the reference's norms by the names of `tensors`, single ones or a vector."""
    if f"{kind}s" in golden:
        return dict(zip(tensors, golden[f"{kind}s"].tolist(), strict=True))
    return {name: float(golden[f"{kind}/{name}"]) for name in tensors if f"{kind}/{name}" in golden}


def compared():
    """Names of models, and whether gradients are compared; those that take long are large."""
    for name in REFERENCES:
        later = name in GRADIENTS_LATER
        if later:
            yield pytest.param(name, False, id=f"{name}, forwards")
        marks = [pytest.mark.large] if later or name.split("+")[0] in LARGE else []
        yield pytest.param(name, name not in ONLY_FORWARDS, id=name, marks=marks)


@pytest.mark.parametrize(("name", "backwards"), list(compared()))
def test_reference_numbers(name, backwards):
    golden = np.load(GOLDEN / f"forward_{REFERENCES[name]}.npz")
    inputs = np.load(GOLDEN / "forward_inputs.npz")
    images, labels = inputs["x"].transpose(0, 2, 3, 1), inputs["y"]
    targets = 80.0 * inputs["prototypes"][labels]
    model = models.build(name, num_classes=10, feature_dim=512, image_shape=(32, 32, 3))
    variables = models.from_torch(REFERENCES[name], reference_weights(golden))

    def loss(params, variables, images, targets):
        outputs, updated = model.apply({**variables, "params": params}, images, True)
        scores = jnp.take_along_axis(jax.nn.log_softmax(outputs.logits), labels[:, None], axis=1)
        cross_entropy = -jnp.mean(scores)
        distance = jnp.mean((outputs.features - targets) ** 2)
        return cross_entropy + 10 * distance, (cross_entropy, distance, updated["batch_stats"])

    def report(variables, images, targets):
        outputs, unchanged = model.apply(variables, images)
        arguments = variables["params"], variables, images, targets
        if not backwards:
            return outputs, unchanged, (None, loss(*arguments)[1])
        return outputs, unchanged, jax.grad(loss, has_aux=True)(*arguments)

    # In float32 rounding puts now and then an activation on the other side of a ReLU's edge, which
    # changes the gradients of such small batches by a few per cent; not so in float64.
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, images, targets))
        run = jax.jit(report, compiler_options=QUICKLY)
        outputs, unchanged, (gradients, (cross_entropy, distance, stats)) = run(*wide)
    np.testing.assert_equal(jax.device_get(unchanged), wide[0])
    for actual, expected in (
        (outputs.features, golden["eval_features"]),
        (outputs.logits, golden["eval_logits"]),
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(cross_entropy, golden["train_ce"], rtol=1e-4)
    np.testing.assert_allclose(distance, golden["train_mse"], rtol=1e-4)

    known = golden["names"].tolist()
    buffers = [name for name in known if ".running_" in name]
    if gradients is not None:
        trained = [name for name in known if name not in buffers and ".num_batches" not in name]
        expected = golden_norms(golden, "grad_norm", trained)
        actual = norms(gradients, known)
        assert actual.keys() == expected.keys()
        # What a later batch norm takes out again (a bias before it) has gradient zero, and the
        # reference reports the rounding noise of the gradients that cancelled.
        noise = 1e-6 * max(expected.values())
        for key, value in expected.items():
            assert actual[key] == pytest.approx(value, rel=2e-4, abs=noise), key
    expected = golden_norms(golden, "bn_after_norm", buffers)
    actual = norms(stats, known)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, rel=1e-4), key


def products(text):
    """Yields the operands' dtypes and the result's of every product of a lowered program."""
    pattern = r"stablehlo\.(?:convolution|dot_general).*: \((.*)\) -> (tensor<.*>)"
    for operands, result in re.findall(pattern, text):
        types = re.findall(r"tensor<[0-9x]*x(\w+)>", f"{operands} {result}")
        yield tuple(types[:2]), types[2]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, "canonical", marks=[pytest.mark.large] if name in LARGE else [])
        for name in models.NAMES
    ]
    + [(name, "im2col") for name in ("fedavg_cnn", "tiny_resnet", "tiny_mobilenet")],
)
def test_every_model_keeps_the_contract_in_mixed_precision(name, form):
    """Shapes and dtypes, float32 where it must be, and convolutions in the layout that is fast."""
    model = models.build(
        name,
        num_classes=5,
        feature_dim=48,  # No base has this length, so that all of them are pooled.
        image_shape=(32, 32, 3),
        form=form,
        precision="bfloat16",
    )

    def train(variables, images, mask, key):
        def loss(params):
            changed = {**variables, "params": params}
            outputs, updated = model.apply(changed, images, True, mask=mask, key=key)
            return jnp.sum(outputs.logits) + jnp.sum(outputs.features), (outputs, updated)

        return jax.grad(loss, has_aux=True)(variables["params"])

    def specify(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)

    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"base", "head"}
    head = {"kernel": ((48, 5), "float32"), "bias": ((5,), "float32")}
    assert specify(variables["params"]["head"]) == head
    images, mask = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32), np.ones(4, bool)
    lowered = jax.jit(train).lower(variables, images, mask, jax.random.key(0))
    gradients, (outputs, updated) = lowered.out_info
    assert specify(outputs) == (((4, 48), "float32"), ((4, 5), "float32"))
    assert specify(updated) == specify(variables)
    assert specify(gradients) == specify(variables["params"])

    text = lowered.as_text()
    found = list(products(text))
    assert {result for _, result in found} == {"f32"}, "Sums must be float32."
    wide = [operands for operands, _ in found if operands != ("bf16", "bf16")]
    # The head and its two gradients, the pooling and its one.
    assert wide == 5 * [("f32", "f32")]
    assert len(found) > 5
    convolutions = re.findall(r"stablehlo\.convolution\(.*", text)
    products_alone = ("mlp", "tiny_vit", "vit_b_16", "vit_b_32")
    assert bool(convolutions) == (form == "canonical" and name not in products_alone)
    for line in convolutions:
        assert "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        assert "batch_group_count = 1 : i64, feature_group_count = 1 : i64" in line


@pytest.mark.parametrize("name", (*models.FAMILIES["tiny"], "tiny_vit"))
def test_padding_changes_nothing_and_vmapped_clients_equal_one_alone(name):
    shape = (8, 8, 1)
    model = models.build(name, num_classes=3, feature_dim=16, image_shape=shape, form="im2col")
    template = jax.eval_shape(model.init, jax.random.key(0))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: generator.normal(0.2, 0.2, (2, *leaf.shape)).astype(np.float32), template
    )
    images = generator.uniform(-1, 1, (2, 6, *shape)).astype(np.float32)

    def report(variables, images, mask):
        def loss(params):
            outputs, updated = model.apply({**variables, "params": params}, images, True, mask=mask)
            rows = jnp.ones(len(images)) if mask is None else mask
            loss = jnp.sum(jnp.sum(outputs.logits**2 + outputs.logits, axis=1) * rows)
            return loss, (outputs.features[:4], updated["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    vmapped = jax.jit(jax.vmap(report, in_axes=(0, 0, None)), compiler_options=QUICKLY)
    padded = vmapped(variables, images, np.arange(6) < 4)
    second = jax.tree.map(lambda leaf: leaf[1], variables)
    alone = jax.jit(report, static_argnums=2, compiler_options=QUICKLY)
    expected = alone(second, images[1, :4], None)
    for one, other in zip(jax.tree.leaves(padded), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one[1], other, rtol=1e-3, atol=1e-5 * np.abs(other).max())
    # No real row at all: everything stays finite.
    empty = vmapped(variables, images, np.zeros(6, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(empty))


def test_images_of_another_shape_are_refused():
    model = models.build("mlp", num_classes=5, feature_dim=8, image_shape=(6, 4, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    for shape in ((4, 6, 3), (6, 4, 1)):
        with pytest.raises(ValueError, match="images must be"):
            jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))


@pytest.mark.parametrize("kernels", ["uniform", "normal", "narrow"])
def test_start_of_the_parameters(kernels):
    """Sizes by fan in and fan out, which differ, also for a depthwise kernel."""
    shapes = {
        "conv": {"kernel": (3, 5, 8, 256), "bias": (256,)},
        "depthwise": {"kernel": (3, 3, 1, 1152)},
        "norm": {"scale": (40,), "bias": (40,)},
        "fc": {"kernel": (64, 90), "bias": (90,)},
    }
    template = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    start = jax.jit(lambda key: initialize(key, template, kernels))(jax.random.key(0))
    for layer, fan_in, fan_out in (("conv", 120, 15 * 256), ("depthwise", 9, 9 * 1152)):
        kernel = np.asarray(start[layer]["kernel"])
        assert kernel.mean() == pytest.approx(0, abs=0.05 * float(kernel.std()))
        if kernels != "uniform":
            wanted = np.sqrt(2 / fan_out) if kernels == "normal" else 0.01
            assert kernel.std() == pytest.approx(wanted, rel=0.03)
            assert np.abs(kernel).max() > 3 * kernel.std()
        else:
            assert np.abs(kernel).max() == pytest.approx(fan_in**-0.5, rel=0.01)
            assert kernel.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.03)
    bias = np.abs(start["conv"]["bias"]).max()
    assert bias == (pytest.approx(120**-0.5, rel=0.05) if kernels == "uniform" else 0)
    for leaf in start["fc"].values():
        assert np.abs(leaf).max() == pytest.approx(1 / 8, rel=0.05)
    np.testing.assert_array_equal(start["norm"]["scale"], np.ones(40))
    np.testing.assert_array_equal(start["norm"]["bias"], np.zeros(40))


def test_a_model_starts_with_the_distribution_of_its_row_and_fresh_statistics():
    model = models.build("tiny_resnet", num_classes=10, feature_dim=64, image_shape=(8, 8, 1))
    variables = jax.jit(model.init, compiler_options=QUICKLY)(jax.random.key(0))
    kernel = variables["params"]["base"]["layer2.0"]["conv2"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(np.sqrt(2 / 64 / 9), rel=0.05)
    stats = variables["batch_stats"]["base"]["layer2.0"]["bn2"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(64))
    np.testing.assert_array_equal(stats["var"], np.ones(64))
    normal = ("resnet", "mobilenet", "efficientnet")
    for name, row in ARCHITECTURES.items():
        kernels = "normal" if any(part in name for part in normal) else "uniform"
        special = {"googlenet": "narrow", "vit": "transformer"}
        own = [start for part, start in special.items() if part in name]
        assert row.kernels == (own[0] if own else kernels)


def test_stochastic_depth_of_an_image_does_not_depend_on_the_batch():
    key = jax.random.key(0)
    gates = efficientnet.depth_gates(key, 500)
    np.testing.assert_array_equal(gates[:3], efficientnet.depth_gates(key, 3))
    np.testing.assert_array_equal(gates[:, 0], 1.0)
    assert float(jnp.mean(gates == 0, axis=0)[15]) == pytest.approx(0.2 * 15 / 16, abs=0.06)
    assert efficientnet.depth_gates(None, 3) is None


def test_features_may_be_those_that_dropout_has_left(monkeypatch):
    """The logits are the same, as is what an evaluation says."""
    monkeypatch.setitem(ARCHITECTURES, "mlp", ARCHITECTURES["mlp"]._replace(dropout=0.5))
    sizes = {"num_classes": 3, "feature_dim": 64, "image_shape": (4, 4, 1)}
    whole, dropped = (
        models.build("mlp", **sizes, dropped_features=dropped) for dropped in (False, True)
    )
    key, images = jax.random.key(0), jnp.ones((2, 4, 4, 1))
    variables = whole.init(key)
    (before, _), (after, _) = (
        model.apply(variables, images, True, key=key) for model in (whole, dropped)
    )
    np.testing.assert_array_equal(before.logits, after.logits)
    kept = np.asarray(after.features != 0)
    np.testing.assert_array_equal(after.features, np.where(kept, 2 * before.features, 0))
    assert 0.3 < np.mean(kept[before.features > 0]) < 0.7
    jax.tree.map(
        np.testing.assert_array_equal,
        whole.apply(variables, images)[0],
        dropped.apply(variables, images)[0],
    )


def test_families():
    assert models.family("ht0") == models.FAMILIES["ht0"]
    assert models.family("resnet8") == ("resnet8",)
    assert models.shared_model("htfe4") == models.shared_model("mlp,fedavg_cnn") == "fedavg_cnn"
    assert models.shared_model("htfe9") == "resnet4"
    assert models.family("mlp, shufflenet_v2_x1_0,mlp") == ("mlp", "shufflenet_v2", "mlp")
    assert models.shared_model("res34_htc4") == "fedavg_cnn"
    assert all(resolve(name) == name for family in models.FAMILIES.values() for name in family)
    for name, count in (("htfe2", 2), ("htfe3", 3), ("htfe5", 5), ("htfe8", 8), ("htfe9", 9)):
        assert len(set(models.family(name))) == count
    with pytest.raises(UsageError, match=r"tiny, ht0, .*got 'tinny'.*did you mean 'tiny'"):
        models.family("tinny")
    with pytest.raises(UsageError, match="got 'resnet9'"):
        models.family("mlp,resnet9")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("resnet9", {}, "model must be one of mlp, .*got 'resnet9' .did you mean 'resnet"),
        ("mlp", {"feature_dim": 0}, "feature_dim must be >= 1, got 0"),
        ("mlp", {"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ("mlp", {"image_shape": (8, 8)}, "image_shape must be .height, width, channels"),
        ("mlp", {"image_shape": (8, 8, 2)}, "image_shape must end in 1 or 3 channels"),
        ("fedavg_cnn", {"image_shape": (8, 8, 1)}, "image_shape must be at least 16 x 16 for fed"),
        ("googlenet", {"image_shape": (14, 20, 1)}, "image_shape must be at least 15 x 15 for goo"),
        ("mlp", {"form": "fft"}, "form must be one of auto, .*got 'fft'"),
        ("mlp", {"precision": "float16"}, "precision must be one of float32, .*got 'float16'"),
    ],
)
def test_impossible_models(name, change, message):
    settings = {"num_classes": 10, "feature_dim": 64, "image_shape": (8, 8, 1), **change}
    with pytest.raises(UsageError, match=message):
        models.build(name, **settings)


def test_weights_that_do_not_fit():
    weights = reference_weights(np.load(GOLDEN / "forward_resnet8.npz"))
    del weights["base.bn1.running_var"]
    with pytest.raises(UsageError, match=r"must have 'bn1.running_var' for resnet8"):
        models.from_torch("resnet8", weights)
    weights["base.bn1.running_var"] = np.ones(63)
    with pytest.raises(UsageError, match=r"'bn1.running_var'\] must be \(64,\).*got \(63,\)"):
        models.from_torch("resnet8", weights)
    weights["base.bn1.running_var"] = np.ones(64)
    weights["base.extra.weight"] = np.ones(3)
    with pytest.raises(UsageError, match=r"no key unknown to resnet8, got 'extra.weight'"):
        models.from_torch("resnet8", weights)
    with pytest.raises(UsageError, match=r"under head or .* 1, got none in 0 arrays"):
        models.from_torch("resnet8", {})


def test_auxiliary_heads_are_left_out():
    """Torchvision's pretrained GoogLeNet has two."""
    weights = reference_weights(np.load(GOLDEN / "forward_googlenet.npz"))
    expected = models.from_torch("googlenet", weights)
    extra = {"aux1.conv.conv.weight": np.ones((128, 512, 1, 1)), "base.aux2.fc2.bias": np.ones(10)}
    loaded = models.from_torch("googlenet", weights | extra)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    with pytest.raises(UsageError, match=r"no key unknown to resnet8, got 'aux1.conv.conv.weight'"):
        models.from_torch(
            "resnet8", reference_weights(np.load(GOLDEN / "forward_resnet8.npz")) | extra
        )


def test_dropout_of_googlenet_is_in_its_features(monkeypatch):
    """Of training passes with a key alone; about a fifth of the features, the others scaled."""
    monkeypatch.setattr(googlenet, "_STAGES", ())
    model = models.build("googlenet", num_classes=4, feature_dim=192, image_shape=(16, 16, 3))
    images = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(images, key):
        variables = model.init(key)
        outputs = [model.apply(variables, images, True, key=key)[0] for key in (key, None)]
        return [one.features for one in outputs]

    dropped, whole = jax.device_get(run(images, jax.random.key(0)))
    kept = dropped != 0
    assert kept[whole != 0].mean() == pytest.approx(0.8, abs=0.04)
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.8, rtol=1e-4)


@pytest.mark.parametrize(
    "name", sorted({name for name in models.NAMES if "vit" not in name} - {*REFERENCES, "resnet34"})
)
def test_torchvision_names_fit_where_there_are_no_reference_numbers(name):
    model = models.build(name, num_classes=4, feature_dim=32, image_shape=(32, 32, 3))
    template = jax.eval_shape(model.init, jax.random.key(0))
    weights = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(template):
        key = tensor_name(path[1:], ()).removeprefix("base.").replace("head.1.", "fc.")
        axes = (3, 2, 0, 1) if leaf.ndim == 4 else tuple(range(leaf.ndim))[::-1]
        weights[key] = np.zeros([leaf.shape[axis] for axis in axes], np.float32)
    loaded = models.from_torch(name, weights)
    assert jax.tree.structure(loaded) == jax.tree.structure(template)
