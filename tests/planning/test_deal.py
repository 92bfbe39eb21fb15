"""Which model methods share, what it costs, and who is refused one."""

import re

import jax
import pytest

from protonorm_jax import models
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan, tpu_forms
from protonorm_jax.planning.arrangement import arrange
from protonorm_jax.planning.deal import common, deal

SETTINGS = Config(method="fml", family="mlp,cnn", num_clients=2, feature_dim=8)


@pytest.mark.parametrize(("asked", "wanted"), [("family", "mlp"), ("tiny_resnet", "tiny_resnet")])
def test_the_shared_model_is_that_of_the_family_or_the_one_asked_for(asked, wanted, small_set):
    config = SETTINGS.replace(shared_model=asked)
    dealt = deal([config], small_set)
    for name in ("mlp", "cnn"):
        cost = models.step_cost(name) + models.step_cost(wanted)
        assert dealt.step_cost[name] == pytest.approx(cost)
    program = plan.program_of(dealt, arrange(dealt, 1, 1, 0, "cpu"), "cpu")
    expected = models.build(wanted, num_classes=5, feature_dim=8, image_shape=(8, 8, 1))
    for architecture in program.architectures:
        shapes = [
            jax.eval_shape(model.init, jax.random.key(0))
            for model in (architecture.models.shared, expected)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("platform", "vmap_clients", "chunk", "groups", "convolutions"),
    [
        ("cpu", 0, 1, {1}, True),
        ("cpu", 2, 2, set(), False),
        ("gpu", 0, 3, set(), False),
        ("gpu", 1, 1, set(), False),
        # Depthwise layers, and the gradients of their kernels, have a group for each channel.
        ("tpu", 0, 1, {1, 16, 32, 64}, True),
        ("tpu, together", 0, 3, {1, 16, 32, 64}, True),
        ("tpu, together", 1, 1, {1, 16, 32, 64}, True),
    ],
)
def test_who_trains_together_and_in_what_form_goes_by_the_platform(
    platform, vmap_clients, chunk, groups, convolutions, small_set, monkeypatch
):
    """Of three clients on one device."""
    platform, _, together = platform.partition(", ")
    chosen = {"tiny_mobilenet"} if together else set()
    monkeypatch.setattr(tpu_forms, "go_together", lambda name, image_shape: name in chosen)
    monkeypatch.setattr(tpu_forms, "better_together", lambda work, widths, image_shape: chosen)
    config = Config(
        method="local", family="tiny_mobilenet", num_clients=3, vmap_clients=vmap_clients
    )
    dealt = deal([config], small_set)
    arranged = arrange(dealt, 1, 1, 0, platform)
    (architecture,) = plan.program_of(dealt, arranged, platform).architectures
    assert architecture.chunk == chunk

    def loss(variables, images):
        outputs, _ = architecture.models.private.apply(variables, images, True)
        return outputs.logits.sum()

    variables = jax.eval_shape(architecture.models.private.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((4, 8, 8, 1), "float32")
    text = jax.jit(jax.grad(loss)).lower(variables, images).as_text()
    found = re.findall(r"(?:feature|batch)_group_count = (\d+)", text)
    assert {int(count) for count in found} == groups
    assert ("stablehlo.convolution" in text) == convolutions


def test_on_a_tpu_those_go_together_for_whom_it_is_better(small_set, monkeypatch):
    monkeypatch.setattr(tpu_forms, "go_together", lambda name, image_shape: name != "tiny_resnet")
    asked = []

    def better(work, widths, image_shape):
        asked.append({one.architecture for one, each in zip(work, widths, strict=True) if each})
        return asked[-1] - {"mlp"}

    monkeypatch.setattr(tpu_forms, "better_together", better)
    dealt = deal([Config(method="local", family="mlp,cnn,tiny_resnet", num_clients=6)], small_set)
    arranged = arrange(dealt, 1, 1, 0, "tpu")
    assert [one.chunk for one in arranged.layouts[0].placements] == [1, 2, 1]
    assert asked == [{"mlp", "cnn"}, {"cnn"}]


@pytest.mark.parametrize("method", ["protonorm", "local", "fedavg"])
def test_methods_that_share_no_model_of_their_own_refuse_one(method, small_set):
    config = SETTINGS.replace(method=method, family="mlp", shared_model="cnn")
    with pytest.raises(
        UsageError, match=rf"Config.shared_model must be family for method {method}, .*got 'cnn'"
    ):
        deal([config], small_set)


def test_runs_share_a_program_unless_something_is_switched_off_in_one():
    for name in ("momentum", "weight_decay", "clip_norm", "failures", "stragglers"):
        off, some, more = (common(SETTINGS.replace(**{name: value})) for value in (0, 0.1, 0.9))
        assert some == more != off == common(SETTINGS)
    for change in ({"schedule": "cosine"}, {"straggler_work": 0.9}):
        assert common(SETTINGS.replace(**change)) == common(SETTINGS)
    for change in ({"optimizer": "adam"}, {"augment": "flip"}, {"local_steps": 3}):
        assert common(SETTINGS.replace(**change)) != common(SETTINGS)


def test_the_state_of_the_optimiser_needs_memory(small_set):
    """Adam keeps two numbers more for every parameter, momentum one."""
    local = SETTINGS.replace(method="local", family="mlp", devices=1)
    plain, momentum, adam = (
        plan.make([local.replace(**change)], small_set)
        for change in ({}, {"momentum": 0.5}, {"optimizer": "adam"})
    )
    (architecture,) = plain.program.architectures
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(architecture.client.params))
    assert momentum.memory.work - plain.memory.work == size
    assert adam.memory.work - plain.memory.work == 2 * size + 4  # And the number of the step.


def test_a_batch_that_nobody_can_fill_is_refused(small_set):
    local = SETTINGS.replace(method="local", family="mlp", last_batch="drop", partition="iid")
    most = deal([local.replace(batch_size=1)], small_set).partitions[0].train_count.max()
    deal([local.replace(batch_size=int(most))], small_set)
    with pytest.raises(
        UsageError,
        match=rf"Config.batch_size must be <= {most}, the most training samples of a client, with "
        rf"last_batch drop, got {most + 1}",
    ):
        deal([local.replace(batch_size=int(most) + 1)], small_set)
