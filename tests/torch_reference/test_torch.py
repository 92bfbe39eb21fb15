"""Ours against plain PyTorch, where that is installed; see the README."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
torch = pytest.importorskip("torch")

from experiments.bench import alignment, harness, torch_side  # noqa: E402
from protonorm_jax import models, thomson  # noqa: E402
from tests.torch_reference import loops, nets  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
NAMES = {name: name for name in nets.BASES} | {"shufflenet_v2": "shufflenet_v2_x1_0"}


# ViT-B is the class of the tiny net.
@pytest.mark.parametrize("name", [name for name in nets.BASES if "vit_b" not in name])
def test_our_model_and_the_net_agree_on_any_weights(name):
    torch.manual_seed(0)
    net = nets.build(name, num_classes=10, feature_dim=512)
    for buffer in net.buffers():
        if buffer.ndim:
            buffer.uniform_(0.5, 1.5)
    for module in net.modules():  # Nothing at random.
        module.skip, module.p = 0.0, 0.0
    # The golden numbers list the same tensors, in the same order, by the names that we read.
    tensors = net.state_dict().values()
    names = np.load(GOLDEN / f"forward_{NAMES[name]}.npz")["names"]
    weights = {str(key): tensor.numpy() for key, tensor in zip(names, tensors, strict=True)}
    variables = jax.tree.map(np.array, models.from_torch(NAMES[name], weights))
    images = np.load(GOLDEN / "forward_inputs.npz")["x"]
    model = models.build(name, num_classes=10, feature_dim=512, image_shape=(32, 32, 3))
    apply = jax.jit(model.apply, static_argnums=2)

    for training in (False, True):
        net.train(training)
        with torch.no_grad():
            theirs = net(torch.from_numpy(images))
        ours, _ = apply(variables, images.transpose(0, 2, 3, 1), training)
        for mine, other in zip((ours.features, ours.logits), theirs, strict=True):
            atol = 1e-3 * float(other.abs().max())
            np.testing.assert_allclose(mine, other, rtol=0, atol=atol)


@pytest.mark.parametrize("name", [name for name in nets.BASES if "vit_b" not in name])
def test_the_net_takes_our_variables(name):
    model = models.build(name, num_classes=10, feature_dim=512, image_shape=(32, 32, 3))
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return generator.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        return generator.uniform(0.5, 1.5, leaf.shape)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), drawn)
    given = models.to_torch(name, variables)
    net = nets.build(name, num_classes=10, feature_dim=512).eval()
    # As above, the names in their order are those of the net's own tensors.
    names = np.load(GOLDEN / f"forward_{NAMES[name]}.npz")["names"]
    own = dict(zip(map(str, names), net.state_dict(), strict=True))
    tensors = {own[key]: torch.from_numpy(array) for key, array in given.items()}
    loaded = net.load_state_dict(tensors, strict=False)
    assert not loaded.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in loaded.missing_keys)
    images = np.load(GOLDEN / "forward_inputs.npz")["x"].astype(np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(images))[1]
    ours = jax.jit(model.apply)(variables, images.transpose(0, 2, 3, 1))[0].logits
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["resnet4", "resnet6", "resnet50", "googlenet"])
def test_the_golden_numbers_are_those_of_torchvision(name):
    pytest.importorskip("torchvision")
    from tests.torch_reference import make_golden

    golden = np.load(GOLDEN / f"forward_{name}.npz")
    numbers = make_golden.numbers(name)
    assert set(numbers) == set(golden.files)
    for key, value in numbers.items():
        if np.asarray(value).dtype.kind == "U":
            np.testing.assert_array_equal(value, golden[key])
        else:
            np.testing.assert_allclose(value, golden[key], rtol=1e-8, atol=1e-10)


def test_our_alignment_and_the_loop_take_as_many_steps_to_the_same_points():
    vectors = alignment.collapsed(10)

    points, steps = loops.align(vectors)

    result = thomson.align(vectors, method="reference")
    assert result.iterations == steps
    np.testing.assert_allclose(result.points, points, atol=1e-3)


def test_both_variants_of_a_round_train_alike(tmp_path):
    architectures = ("fedavg_cnn", "resnet8")
    samples = harness.random_samples(2 * (64 + 32), "cifar")

    torch_side.prepare_round(architectures, *samples, 64, 1, str(tmp_path))

    # There are no prototypes in the first round, so that their lag does not show yet.
    on_disk, in_memory = (torch_side._federations[name] for name in ("NCHW", "channels_last"))
    for client in range(2):
        pair = (federation.load(client).parameters() for federation in (on_disk, in_memory))
        for saved, kept in zip(*pair, strict=True):
            torch.testing.assert_close(saved, kept, rtol=1e-3, atol=1e-4)
    assert torch_side.time_round("NCHW").wall > 0
