"""The values that cross the borders between rooms."""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Variables = dict[str, Any]
"""`{"params": {"base": ..., "head": ...}, "batch_stats": ...}` of one model; see `Model.init`."""


class Partition(NamedTuple):
    """Who holds which samples of a data set.

    Rows are padded with index 0; the first `count` entries of a row are real. Both arrays are at
    least one column wide.

    Attributes:
      train: `[M, max_train]` int32, training samples.
      train_count: `[M]` int32, at least 1 each.
      test: `[M, max_test]` int32, test samples.
      test_count: `[M]` int32, may be 0.
      validation: `[M, max_validation]` int32, samples set apart to choose rounds and settings by;
        None where none are.
      validation_count: `[M]` int32, may be 0.
    """

    train: np.ndarray
    train_count: np.ndarray
    test: np.ndarray
    test_count: np.ndarray
    validation: np.ndarray | None = None
    validation_count: np.ndarray | None = None


class Scored(NamedTuple):
    """The samples that clients are scored on, in parts of which each is scored apart.

    Attributes:
      parts: what the columns of results call each part, see `metrics.row`.
      rows: `[M, m]` int32, of each client the samples of all parts, one part after the other;
        padded with 0.
      counts: `[M, parts]` int32, how many there are in each part.
    """

    parts: tuple[str, ...]
    rows: np.ndarray
    counts: np.ndarray


class Part(enum.IntEnum):
    """Which part of a published set a sample belongs to, as numbered in `Dataset.parts`."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


class Dataset(NamedTuple):
    """A labelled image set, whole in memory.

    Attributes:
      images: `[N, H, W, channels]` uint8.
      labels: `[N]` int32 in `[0, num_classes)`.
      num_classes: number of classes.
      name: what messages and file names call the set.
      parts: `[N]` uint8, of each sample its `Part`, where the source tells parts apart.
      dealt: who holds which samples, where the source says so itself.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    name: str = "data"
    parts: np.ndarray | None = None
    dealt: Partition | None = None


class Outputs(NamedTuple):
    """What a model says of a batch.

    Attributes:
      features: `[B, feature_dim]` float32, the input of the head.
      logits: `[B, num_classes]` float32.
    """

    features: jax.Array
    logits: jax.Array


def linear_classify(
    variables: Variables,
    features: jax.Array,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> jax.Array:
    """Logits `[B, num_classes]` of features `[B, feature_dim]` by a linear head."""
    del train, key
    head = variables["params"]["head"]
    return features @ head["kernel"] + head["bias"].reshape(1, -1)


class Start(NamedTuple):
    """`Model.init` in two parts, `cut(draw(key))`, of which the second may be done by numpy.

    Attributes:
      draw: `draw(key) -> vectors`, all random numbers.
      cut: `cut(vectors) -> variables`, of vectors `[..., n]` arrays `[..., *shape]`.
    """

    draw: Callable[[jax.Array], dict[str, jax.Array]]
    cut: Callable[[dict[str, Any]], Variables]


class Model(NamedTuple):
    """One architecture as pure functions.

    Attributes:
      init: `init(key) -> variables`. `variables["params"]` has the sub-trees `base` and `head`;
        a linear `head` is `{"kernel": [feature_dim, num_classes], "bias": [num_classes]}`.
        `variables["batch_stats"]` is present for every model, empty without batch norm.
      apply: `apply(variables, images, train=False, *, mask=None, key=None) ->
        (Outputs, variables)`. `images` is `[B, H, W, channels]` float32 in [-1, 1]. With
        `train`, batch norm uses and updates the statistics of the batch, over the rows where
        `mask` (`[B]` bool, default all) is true; `key` switches dropout and stochastic depth on
        (without it they are off). Without `train` the variables come back unchanged.
      classify: `classify(variables, features, *, train=False, key=None) -> logits`, the head
        alone, on features `[B, feature_dim]` of whatever origin. With `train` and a `key` a head
        that has dropout applies it.
      linear_head: whether `classify` without dropout is one linear layer.
      start: `init` in two parts; None where it has none.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[..., tuple[Outputs, Variables]]
    classify: Callable[..., jax.Array] = linear_classify
    linear_head: bool = True
    start: Start | None = None


class Models(NamedTuple):
    """The nets that a client and the server may speak of.

    Attributes:
      private: the client's own architecture.
      shared: an architecture that all clients know, for methods that ask for one; else None.
    """

    private: Model
    shared: Model | None = None


class Client(NamedTuple):
    """All that one client keeps between rounds.

    Attributes:
      params: what its optimiser trains: `{"model": ...}` and what the method adds.
      statistics: what its forward passes update, with the same keys (batch-norm statistics).
    """

    params: dict[str, Any]
    statistics: dict[str, Any]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("pixels",), meta_fields=("shape",)
)
@dataclasses.dataclass(frozen=True)
class Images:
    """Images as rows of numbers.

    In their own shape a TPU would lay out three channels as 128, and copy all images into that
    layout in every call.

    Attributes:
      pixels: `[N, height * width * channels]` uint8.
      shape: `(height, width, channels)` of each.
    """

    pixels: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, images: np.ndarray) -> "Images":
        """Those of `[N, height, width, channels]`."""
        return cls(images.reshape(len(images), -1), images.shape[1:])


def is_images(leaf: Any) -> bool:
    """Whether a leaf of the inputs of a data set holds pixels, from 0 to 255."""
    return isinstance(leaf, Images) or leaf.dtype == jnp.uint8


class ClientData(NamedTuple):
    """One client's samples, as rows of arrays that all clients share.

    Attributes:
      inputs: a pytree of the whole data set with leaves `[N, ...]`, or `Images`.
      labels: `[N]` int32 of the whole data set.
      indices: `[n]` int32, the client's rows, real ones first.
      num_samples: `[]` int32, how many of `indices` are real.
    """

    inputs: Any
    labels: jax.Array
    indices: jax.Array
    num_samples: jax.Array


class Members(NamedTuple):
    """The clients of one architecture on one device.

    Attributes:
      client_ids: `[slots]` int32, -1 for an empty slot.
      train: `[slots, n]` int32, rows of the data set.
      train_count: `[slots]` int32.
      test: `[slots, m]` int32, the rows that each is scored on, part after part.
      test_count: `[slots, parts]` int32, how many of them belong to each part.
    """

    client_ids: jax.Array
    train: jax.Array
    train_count: jax.Array
    test: jax.Array
    test_count: jax.Array


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
      inputs: a pytree with leaves `[B, ...]`; today one array of images `[B, H, W, channels]`
        float32 in [-1, 1].
      labels: `[B]` int32.
      mask: `[B]` bool; false rows are padding and must change nothing.
    """

    inputs: Any
    labels: jax.Array
    mask: jax.Array


def scaled(pixels: jax.Array) -> jax.Array:
    """Pixels in 0..255 as nets see them: float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def take(data: ClientData, rows: jax.Array, mask: jax.Array) -> Batch:
    """The samples `rows` `[B]` of the whole data set, pixels scaled from 0..255 to [-1, 1].

    Leaves of the inputs that are neither `Images` nor uint8 stay as they are.
    """

    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, Images):
            taken = leaf.pixels[rows].reshape(-1, *leaf.shape)
        else:
            taken = leaf[rows]
        return scaled(taken) if is_images(leaf) else taken

    inputs = jax.tree.map(one, data.inputs, is_leaf=lambda leaf: isinstance(leaf, Images))
    return Batch(inputs, data.labels[rows], mask)


class Prototypes(NamedTuple):
    """One vector a class.

    Attributes:
      vectors: `[C, D]` float32; rows of unknown classes are zero.
      known: `[C]` bool; whether any client has contributed the class.
    """

    vectors: jax.Array
    known: jax.Array
