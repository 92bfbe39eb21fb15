"""The table of models, and how a row of it becomes a `Model`."""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from protonorm_jax.errors import UsageError
from protonorm_jax.models import heads, layers
from protonorm_jax.models.architectures import (
    efficientnet,
    googlenet,
    mobilenet,
    plain,
    resnet,
    shufflenet,
    vit,
)
from protonorm_jax.models.layers import initialization
from protonorm_jax.models.layers.forms import FORMS
from protonorm_jax.models.layers.pooling import adaptive_average_pool
from protonorm_jax.models.layers.precision import PRECISIONS, accumulator
from protonorm_jax.types import Model, Outputs, Start, Variables


class Architecture(NamedTuple):
    """One row of the table.

    Attributes:
      base: makes the module that maps `[B, H, W, channels]` and a `Context` to `[B, F]`.
      kernels: how convolutions start; see `initialization.initialize`.
      smallest: least height and width of an image.
      multiple: of what the height and the width of an image must be multiples.
      dropout: rate before the head.
      activation: of the hidden layers of a head that has any.
      step_cost: time of a training step, relative to the other rows; balances devices. Measured
        in milliseconds on one CPU core, for 32 images of 32 x 32 x 3.
    """

    base: Callable[[], nn.Module]
    kernels: str = "uniform"
    smallest: int = 1
    multiple: int = 1
    dropout: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    step_cost: float = 20.0


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(plain.Perceptron, step_cost=0.7),
    "cnn": Architecture(plain.SmallCNN, smallest=4, step_cost=6),
    "tiny_resnet": Architecture(resnet.TinyResNet, "normal", step_cost=7),
    "tiny_mobilenet": Architecture(mobilenet.TinyMobileNet, "normal", step_cost=3.5),
    "fedavg_cnn": Architecture(plain.FedAvgCNN, smallest=16, step_cost=20),
    "resnet4": Architecture(lambda: resnet.ResNet((1,)), "normal", step_cost=15),
    "resnet6": Architecture(lambda: resnet.ResNet((1, 1)), "normal", step_cost=24),
    "resnet8": Architecture(resnet.ResNet8, "normal", step_cost=33),
    "resnet10": Architecture(lambda: resnet.ResNet((1, 1, 1, 1)), "normal", step_cost=37),
    "resnet18": Architecture(lambda: resnet.ResNet((2, 2, 2, 2)), "normal", step_cost=70),
    "resnet34": Architecture(lambda: resnet.ResNet((3, 4, 6, 3)), "normal", step_cost=155),
    "resnet50": Architecture(
        lambda: resnet.ResNet((3, 4, 6, 3), resnet.Bottleneck), "normal", step_cost=217
    ),
    "resnet101": Architecture(
        lambda: resnet.ResNet((3, 4, 23, 3), resnet.Bottleneck), "normal", step_cost=470
    ),
    "resnet152": Architecture(
        lambda: resnet.ResNet((3, 8, 36, 3), resnet.Bottleneck), "normal", step_cost=780
    ),
    "googlenet": Architecture(googlenet.GoogLeNet, "narrow", smallest=15, step_cost=84),
    "mobilenet_v2": Architecture(mobilenet.MobileNetV2, "normal", step_cost=43),
    "shufflenet_v2": Architecture(shufflenet.ShuffleNetV2, step_cost=18),
    "efficientnet_b0": Architecture(
        efficientnet.EfficientNetB0, "normal", dropout=0.2, step_cost=66
    ),
    "tiny_vit": Architecture(
        lambda: vit.VisionTransformer(4, 4, 64, 128),
        "transformer",
        smallest=8,
        multiple=4,
        activation=nn.tanh,
        step_cost=40,
    ),
    "vit_b_16": Architecture(
        lambda: vit.VisionTransformer(patch=16),
        "transformer",
        multiple=16,
        activation=nn.tanh,
        step_cost=970,
    ),
    "vit_b_32": Architecture(
        lambda: vit.VisionTransformer(patch=32),
        "transformer",
        multiple=32,
        activation=nn.tanh,
        step_cost=530,
    ),
}

ALIASES = {"shufflenet_v2_x1_0": "shufflenet_v2"}

NAMES: tuple[str, ...] = tuple(ARCHITECTURES)
"""All model names; each may be followed by the hidden layers of a head, see `build`."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "tiny": ("mlp", "cnn", "tiny_resnet", "tiny_mobilenet"),
    "ht0": ("resnet8", "mobilenet_v2", "shufflenet_v2", "efficientnet_b0"),
    "htfe2": ("fedavg_cnn", "resnet18"),
    "htfe3": ("resnet10", "resnet18", "resnet34"),
    "htfe4": ("fedavg_cnn", "googlenet", "mobilenet_v2", "resnet18"),
    "htfe5": ("googlenet", "mobilenet_v2", "resnet18", "resnet34", "resnet50"),
    "htfe8": (
        *("fedavg_cnn", "googlenet", "mobilenet_v2", "resnet18"),
        *("resnet34", "resnet50", "resnet101", "resnet152"),
    ),
    "htfe9": (
        *("resnet4", "resnet6", "resnet8", "resnet10", "resnet18"),
        *("resnet34", "resnet50", "resnet101", "resnet152"),
    ),
    "htm10": (
        *("fedavg_cnn", "googlenet", "mobilenet_v2", "resnet18", "resnet34"),
        *("resnet50", "resnet101", "resnet152", "vit_b_16+768", "vit_b_32+768"),
    ),
    "htfe8_htc4": (
        *("fedavg_cnn", "googlenet+512", "mobilenet_v2+256", "resnet18+128"),
        *("resnet34", "resnet50+512", "resnet101+256", "resnet152+128"),
    ),
    "res34_htc4": ("resnet34", "resnet34+512", "resnet34+256", "resnet34+128"),
}
"""Named groups of models; client `i` of a run has model `i` modulo the group's size."""

_SHARED = {"res34_htc4": "fedavg_cnn"}
"""Families whose shared model is none of theirs."""


class Net(nn.Module):
    """A base, its output averaged (or stretched) to `feature_dim`, and a head.

    Attributes:
      base: the backbone.
      feature_dim: length of the features.
      head: maps features to logits.
      dropout: rate between features and head.
      precision: dtype of the activations of the base; `float32` leaves images as they are.
      dropped_features: whether the features it reports are those that dropout has left.
    """

    base: nn.Module
    feature_dim: int
    head: nn.Module
    dropout: float
    precision: str = "float32"
    dropped_features: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, context: layers.Context) -> Outputs:
        """Maps `[B, H, W, channels]` to features and logits."""
        head_key = None
        if context.key is not None:
            base_key, head_key = jax.random.split(context.key)
            context = context._replace(key=base_key)
        if self.precision != "float32":
            images = images.astype(self.precision)
        output = self.base(images, context)
        output = output.astype(accumulator(output.dtype))
        features = adaptive_average_pool(output, self.feature_dim, context.form)
        kept = layers.dropout(features, self.dropout, head_key)
        logits = self.head(kept)
        return Outputs(kept if self.dropped_features else features, logits)


def build(
    name: str,
    *,
    num_classes: int,
    feature_dim: int,
    image_shape: tuple[int, int, int],
    form: str = "auto",
    precision: str = "float32",
    dropped_features: bool = False,
) -> Model:
    """Makes one architecture as pure functions; see `types.Model` for their arguments.

    They work under every transformation but forward-mode differentiation. `init` is meant to be
    jitted by the caller; run eagerly it takes longer than it takes to compile.

    Args:
      name: one of `NAMES`, for a linear head. For one of several layers the widths of the hidden
        ones follow, as in `resnet34+512`, or `resnet34+512+128` for two. Their activation is ReLU,
        in transformers tanh; behind the last layer there is none.
      num_classes: number of logits, at least 2.
      feature_dim: length of the features; the output of the base is averaged or stretched to it.
      image_shape: `(height, width, channels)`; 1 or 3 channels.
      form: how layers are computed, see `layers.forms`; to rounding it makes no difference.
      precision: `bfloat16` for activations, and operands of convolutions and matrix products, of
        that dtype. Parameters, statistics and their gradients, sums, features and the head are
        float32 either way.
      dropped_features: whether training passes report features as dropout before the head has
        left them, as a dropout in place does; it makes a difference for `efficientnet_b0` alone.
    Returns:
      A `Model`.
    Raises:
      UsageError: if the name is unknown or a value impossible.
    """
    name = resolve(name)
    base, widths = heads.split(name)
    row = ARCHITECTURES[base]
    _check(base, row, num_classes, feature_dim, image_shape, form, precision)
    shape = tuple(int(size) for size in image_shape)
    head = heads.make(widths, int(num_classes), row.activation)
    net = Net(
        row.base(),
        feature_dim=int(feature_dim),
        head=head,
        dropout=row.dropout,
        precision=precision,
        dropped_features=dropped_features,
    )

    @functools.cache
    def template() -> Variables:
        """The shapes of all variables."""
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        declare = functools.partial(net.init, context=layers.Context(form="native"))
        return jax.eval_shape(declare, jax.eval_shape(lambda: jax.random.key(0)), images)

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        return initialization.draw(key, template()["params"], row.kernels)

    def cut(drawn: dict[str, Any]) -> Variables:
        shapes = template()
        params = initialization.cut(drawn, shapes["params"], row.kernels)
        statistics = jax.tree_util.tree_map_with_path(
            lambda path, leaf: initialization.constant(drawn, leaf.shape, path[-1].key == "var"),
            shapes.get("batch_stats", {}),
        )
        return {"params": params, "batch_stats": statistics}

    def init(key: jax.Array) -> Variables:
        return cut(draw(key))

    # Jitted so that Python walks through the layers once, however often the pass is traced: by the
    # plan, the collection and the evaluation. For `forward`, which is differentiated, it gains
    # nothing, as the jitted function is walked through to be differentiated.
    @functools.partial(jax.jit, inline=True)
    def infer(variables: Variables, images: jax.Array) -> Outputs:
        return Outputs(*net.apply(variables, images, layers.Context(False, None, None, form)))

    def forward(
        variables: Variables, images: jax.Array, rows: jax.Array | None, key: jax.Array | None
    ) -> tuple[Outputs, Variables]:
        context = layers.Context(True, rows, key, form)
        outputs, updates = net.apply(variables, images, context, mutable=["batch_stats"])
        return Outputs(*outputs), {**variables, "batch_stats": updates.get("batch_stats", {})}

    def apply(
        variables: Variables,
        images: jax.Array,
        train: bool = False,
        *,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Variables]:
        if images.shape[1:] != shape:
            raise ValueError(f"images must be [B, {shape}], got {images.shape}")
        if not train:
            return infer(variables, images), variables
        rows = None if mask is None else mask.astype(images.dtype)
        return forward(variables, images, rows, key)

    def classify(
        variables: Variables,
        features: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> jax.Array:
        kept = layers.dropout(features, row.dropout, key if train else None)
        return jnp.asarray(head.apply({"params": variables["params"]["head"]}, kept))

    return Model(init, apply, classify, linear_head=not widths, start=Start(draw, cut))


def family(name: str) -> tuple[str, ...]:
    """Lists the models of a family.

    Args:
      name: a key of `FAMILIES`, a model name, or several model names with commas between; a model
        name is one that `build` takes.
    Returns:
      Model names, as `resolve` returns them.
    Raises:
      UsageError: if a name is unknown.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if "," in name:
        return tuple(resolve(part.strip()) for part in name.split(","))
    return (resolve(name, (*FAMILIES, *NAMES)),)


def shared_model(name: str) -> str:
    """The model of a family that methods share between all clients.

    `fedavg_cnn` if the family has it, as in HtFLlib, else the first.

    Args:
      name: as `family` takes it.
    Raises:
      UsageError: if a name is unknown.
    """
    names = family(name)
    if name in _SHARED:
        return _SHARED[name]
    return "fedavg_cnn" if "fedavg_cnn" in names else names[0]


def step_cost(name: str) -> float:
    """Time of one training step of a model, relative to others; see `Architecture`.

    Hidden layers of the head do not count.
    """
    return ARCHITECTURES[heads.split(resolve(name))[0]].step_cost


def resolve(name: str, known: tuple[str, ...] = NAMES) -> str:
    """Returns the one name of a model: that of the table, and the widths of its head, if any.

    Args:
      name: a model name or an alias of one, and what may follow it.
      known: names to list and to suggest if `name` is not known.
    Raises:
      UsageError: if the name is unknown.
    """
    base, widths = heads.split(str(name))
    base = ALIASES.get(base, base)
    if base in ARCHITECTURES:
        return heads.join(base, widths)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UsageError(f"model must be one of {', '.join(known)}, got {name!r}{hint}")


def _check(name, row, num_classes, feature_dim, image_shape, form, precision) -> None:
    if num_classes < 2:
        raise UsageError(f"num_classes must be >= 2, got {num_classes}")
    if feature_dim < 1:
        raise UsageError(f"feature_dim must be >= 1, got {feature_dim}")
    if len(image_shape) != 3:
        raise UsageError(f"image_shape must be (height, width, channels), got {image_shape}")
    if image_shape[2] not in (1, 3):
        raise UsageError(f"image_shape must end in 1 or 3 channels, got {image_shape}")
    if min(image_shape[:2]) < row.smallest:
        raise UsageError(
            f"image_shape must be at least {row.smallest} x {row.smallest} for {name}, "
            f"got {image_shape}"
        )
    if any(side % row.multiple for side in image_shape[:2]):
        raise UsageError(
            f"image_shape must have multiples of {row.multiple} for height and width for {name}, "
            f"got {image_shape}"
        )
    if form not in FORMS:
        raise UsageError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
