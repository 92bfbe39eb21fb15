import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.bench import client_step, roofline
from protonorm_jax import models


# MFLOP of one image, forward and backward, from a count that did not use this code.
@pytest.mark.parametrize(
    ("name", "millions", "pads"),
    [("resnet8", 82.0, True), ("mobilenet_v2", 36.3, True), ("fedavg_cnn", 43.2, False)],
)
def test_operations_are_those_known(name, millions, pads):
    work = client_step.work(name)
    assert work.operations / 32e6 == pytest.approx(millions, abs=0.05)
    assert (work.least_operations < work.operations) == pads
    # 3 taps at 4 positions; the first and the last position see one tap less.
    assert roofline._live_taps(size=4, taps=3, outputs=4, stride=1, padding=1) == 10
    assert roofline._live_taps(size=4, taps=3, outputs=2, stride=2, padding=1) == 5


def test_operations_and_bytes_of_a_perceptron_are_those_of_its_three_layers():
    shape = (4, 4, 1)
    model = models.build("mlp", num_classes=3, feature_dim=64, image_shape=shape, form="native")
    work = roofline.count(model, shape, batch_size=2)

    first, second, third = 2 * 16 * 64, 2 * 64 * 64, 2 * 64 * 3
    image, hidden, logits = (4 * 2 * size for size in (16, 64, 3))
    assert work.operations == work.least_operations == 4 * first + 6 * second + 6 * third
    assert work.parameter_bytes == 4 * (16 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3)
    # Before and after the activation of both hidden layers.
    assert work.activation_bytes == image + 4 * hidden + logits
    assert work.bytes == 6 * work.parameter_bytes + 2 * image + 21 * hidden + 6 * logits


@pytest.mark.parametrize(("step", "stream", "bound"), [(4.0, 4.0, "flop"), (4e4, 4e4, "bytes")])
def test_the_share_of_a_step_is_that_of_the_longer_of_two_times(step, stream, bound):
    work = roofline.Work(3 * 10**6, 2 * 10**6, 2**20, 1, 1)
    # 2e6 operations in 2 ms; 2 MiB read and written.
    share = roofline.share(work, step, 2.0, stream, size=100, mebibytes=1)
    assert share["rates"] == pytest.approx({"operations": 1e9, "bytes": 2**21 / (stream / 1e3)})
    assert (share["roofline_fraction"], share["roofline_bound"]) == (pytest.approx(0.5), bound)
