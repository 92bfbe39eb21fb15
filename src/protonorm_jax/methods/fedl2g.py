"""FedL2G: guiding vectors, learned so that following them lowers the clients' own loss."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from protonorm_jax import settings
from protonorm_jax.errors import UsageError
from protonorm_jax.methods.method import (
    Loss,
    LossInfo,
    Method,
    Received,
    Round,
    Setup,
    Upload,
    cross_entropy,
    forward,
    head_loss,
    mean_of_rows,
)
from protonorm_jax.methods.shared import class_table, clipping, prototypes
from protonorm_jax.types import Batch, Client, ClientData, Models, take

_LIMIT = 100.0  # Of the norm of gradients: of a client's model, and of the guiding vectors.


@settings.group
class Settings:
    """Of FedL2G."""

    guide: str = settings.setting(
        "feature", "what is pulled to the guiding vectors", choices=("feature", "logit")
    )
    warmup: int = settings.setting(
        0,
        "rounds at the start, not all, in which guiding vectors are learned and no model is "
        "trained (the reference code's default is 50)",
        least=0,
        probe=(0, 1),
    )
    study_batches: int = settings.setting(1, "batches of the virtual step", least=1, probe=(1, 2))
    quiz_batches: int = settings.setting(
        1, "batches of each client held back, on which the virtual step is judged", least=1
    )
    server_learning_rate: float = settings.setting(
        0.01,
        "of the server, for the guiding vectors, whose gradient is small: on digits it has a norm "
        "of 0.0005",
        traced=True,
        above=0,
        probe=(1.0, 100.0),
        tune=settings.between(0.001, 100, log=True),
    )


def batches_of(data: ClientData, rows: jax.Array, mask: jax.Array, size: int) -> list[Batch]:
    """Cuts the first of a client's rows into batches.

    Args:
      data: of the client.
      rows: int32, in which order.
      mask: `[batches * size]` bool, those that exist.
      size: of a batch.
    """
    rows = jnp.take(rows, jnp.arange(mask.shape[0]), mode="clip")
    cuts = [slice(start, start + size) for start in range(0, mask.shape[0], size)]
    return [take(data, rows[cut], mask[cut]) for cut in cuts]


def study_order(key: jax.Array, data: ClientData, round: Round, held: int) -> jax.Array:
    """A random order of `data.indices` `[n]`: first the samples that are trained on.

    The draw `study`, positions in `data.indices`, takes its place where it is given; it may be
    shorter.

    Args:
      key: consumed.
      data: of the client.
      round: of the federation.
      held: samples at the start that are not trained on.
    """

    def draw() -> jax.Array:
        length = data.indices.shape[0]
        position = jnp.arange(length)
        trained = (position >= held) & (position < data.num_samples)
        ranks = jax.random.bits(key, (length,)) >> 1
        return jnp.argsort(jnp.where(trained, ranks, jnp.uint32(2**32 - 1)))

    return data.indices[round.drawn("study", draw)]


def fedl2g(setup: Setup, fixed: Settings) -> Method:
    """Learning to guide: `CE(o, y) + MSE(f, v_y)`, where the server learns the v of each class.

    In place of features f and v of D numbers the guide may be logits o and v of C numbers. MSE is a
    mean over batch and elements; a client's gradient is clipped to a norm of 100.

    After training, a client takes a virtual step, plain SGD with its learning rate of the round
    whatever optimiser trains its model, along the gradient of that loss, averaged over study
    batches. With the model that would come of it, in training mode, it takes the cross-entropy of
    its quiz batches, which are never trained on, and uploads the gradient of that by v, where it is
    not zero: for classes in the study batches. The server takes the mean over the clients that have
    sent one for a class, clips the whole to a norm of 100, and takes a step of SGD. The first v are
    normally distributed.

    A client with too few samples for the quiz and a batch more trains on all, and uploads nothing
    (the reference code fails).

    Source: FedL2G (arXiv:2410.06490) as HtFLlib has it.
    """
    size, num_classes = setup.batch_size, setup.num_classes
    by_logits = fixed.guide == "logit"
    length = num_classes if by_logits else setup.feature_dim
    if fixed.warmup >= setup.rounds:
        raise UsageError(
            f"fedl2g.warmup must be less than the number of rounds, {setup.rounds}, "
            f"got {fixed.warmup}"
        )

    def loss(
        params: dict[str, Any],
        statistics: dict[str, Any],
        down: jax.Array,
        batch: Batch,
        key: jax.Array,
        round: Round,
        *,
        models: Models,
    ) -> tuple[jax.Array, LossInfo]:
        del round
        outputs, statistics = forward(models, params, statistics, batch, key)
        entropy = cross_entropy(outputs.logits, batch.labels, batch.mask)
        guided = outputs.logits if by_logits else outputs.features
        # Not `down[labels]`: its gradient would be a scatter, the order of whose sums is not fixed.
        labels = jax.nn.one_hot(batch.labels, num_classes)
        wanted = jnp.dot(labels, down, precision=jax.lax.Precision.HIGHEST)
        distance = mean_of_rows(jnp.mean(jnp.square(guided - wanted), axis=1), batch.mask)
        terms = {"cross_entropy": entropy, "guide_mse": distance}
        return entropy + distance, LossInfo(outputs, statistics, terms)

    def optimizer(round: Round) -> optax.GradientTransformation:
        clip = clipping.clip_each_net(_LIMIT)
        return optax.chain(clip, round.descent.along(round.learning_rate))

    def upload(
        key: jax.Array,
        client: Client,
        totals: Any,
        data: ClientData,
        down: jax.Array,
        round: Round,
        *,
        models: Models,
    ) -> Upload:
        del totals
        order_key, study_key, quiz_key = jax.random.split(key, 3)
        held = fixed.quiz_batches * size
        quiz = batches_of(data, data.indices, jnp.ones(held, bool), size)
        studied = jnp.arange(fixed.study_batches * size) < data.num_samples - held
        study = batches_of(data, study_order(order_key, data, round, held), studied, size)

        def mean(objective: Loss, key: jax.Array, params: Any, guides: Any, batches: Any) -> Any:
            losses = [
                objective(params, client.statistics, guides, *one, round, models=models)[0]
                for one in zip(batches, jax.random.split(key, len(batches)), strict=True)
            ]
            return jnp.mean(jnp.stack(losses))

        def quiz_loss(guides: jax.Array) -> jax.Array:
            def study_loss(params: Any) -> jax.Array:
                return mean(loss, study_key, params, guides, study)

            gradient = jax.grad(study_loss)(client.params)
            virtual = jax.tree.map(
                lambda own, slope: own - round.learning_rate * slope, client.params, gradient
            )
            return mean(head_loss, quiz_key, virtual, guides, quiz)

        enough = data.num_samples >= held + size
        gradient = jnp.where(enough, jax.grad(quiz_loss)(down), 0.0)
        return Upload(each=gradient, floats=jnp.sum(_sent(gradient)) * length)

    def aggregate(
        key: jax.Array, server: jax.Array, received: Received, round: Round
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        sent = _sent(received.each)
        sums = class_table.ClassSums(received.each, sent.astype(jnp.float32))
        mean = class_table.average(sums, prototypes.unknown(num_classes, length)).vectors
        guides = server - round.settings.server_learning_rate * clipping.clip(mean, _LIMIT)
        return guides, {
            "guide_gradient_norm": optax.tree.norm(mean),
            "guided_classes": jnp.sum(jnp.any(sent, axis=0)),
        }

    return Method(
        init_server=lambda key, models, first: jax.random.normal(key, (num_classes, length)),
        broadcast=lambda server, round: (server, server.size),
        loss=loss,
        optimizer=optimizer,
        upload=upload,
        aggregate=aggregate,
        show=lambda server: {"guides": server},
        collect=None,
        reserve=fixed.quiz_batches,
        warmup=fixed.warmup,
        server_steps=1,
    )


def _sent(gradients: jax.Array) -> jax.Array:
    """Of which classes a gradient is sent, `[..., C]` bool: rows that are not all zero."""
    return jnp.any(gradients != 0, axis=-1)
