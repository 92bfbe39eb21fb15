"""FML: a private model and a shared one that learn from each other."""

from typing import Any

import jax
import optax

from protonorm_jax import settings
from protonorm_jax.methods.method import (
    LossInfo,
    Method,
    Round,
    Setup,
    Shared,
    cross_entropy,
    variables_of,
)
from protonorm_jax.methods.shared import averages, clipping, mentee
from protonorm_jax.types import Batch, Models, Variables


@settings.group
class Settings:
    """Of FML."""

    private_weight: float = settings.setting(
        0.5,
        "alpha: weight of the labels for the private model, the rest is for the shared one's "
        "opinion (the reference code's default is 1, which switches that off)",
        traced=True,
        least=0,
        most=1,
        tune=settings.between(0.1, 1),
    )
    shared_weight: float = settings.setting(
        0.5,
        "beta: the same for the shared model",
        traced=True,
        least=0,
        most=1,
        tune=settings.between(0.1, 1),
    )
    clip: float = settings.setting(
        10.0, "largest norm of the gradient of each net", traced=True, above=0, probe=(0.1, 10.0)
    )
    detach: bool = settings.setting(
        False,
        "whether each model takes the other's opinion as given (the paper), or is trained on the "
        "other's loss as well (the reference code)",
        probe=(False, True),
    )


def fml(setup: Setup, fixed: Settings) -> Method:
    """Mutual learning: alpha CE(o, y) + (1 - alpha) KL and the same with beta for the mentee.

    With o and g the logits of the private model and the mentee, KL(a || b) the mean over batch and
    classes, both nets follow the sum of
    `alpha CE(o, y) + (1 - alpha) KL(softmax g || softmax o)` and
    `beta CE(g, y) + (1 - beta) KL(softmax o || softmax g)`, each clipped by itself. Only the mentee
    travels, and the server takes the plain mean.

    Source: Federated Mutual Learning (arXiv:2006.16765) as HtFLlib has it. There both losses are
    differentiated by both nets, which `detach` changes; running statistics are not averaged there
    and are here.
    """
    del setup

    def loss(
        params: dict[str, Any],
        statistics: dict[str, Any],
        down: Variables,
        batch: Batch,
        key: jax.Array,
        round: Round,
        *,
        models: Models,
    ) -> tuple[jax.Array, LossInfo]:
        del down
        outputs, shared, statistics = mentee.forward_both(models, params, statistics, batch, key)
        private_logits, shared_logits = outputs.logits, shared.logits
        as_given = jax.lax.stop_gradient if fixed.detach else lambda logits: logits
        entropy = cross_entropy(private_logits, batch.labels, batch.mask)
        shared_entropy = cross_entropy(shared_logits, batch.labels, batch.mask)
        to_shared = mentee.divergence(private_logits, as_given(shared_logits), batch.mask)
        to_private = mentee.divergence(shared_logits, as_given(private_logits), batch.mask)
        alpha, beta = round.settings.private_weight, round.settings.shared_weight
        terms = {
            "cross_entropy": entropy,
            "mentee_cross_entropy": shared_entropy,
            "private_loss": alpha * entropy + (1 - alpha) * to_shared,
            "mentee_loss": beta * shared_entropy + (1 - beta) * to_private,
        }
        total = terms["private_loss"] + terms["mentee_loss"]
        return total, LossInfo(outputs, statistics, terms)

    def optimizer(round: Round) -> optax.GradientTransformation:
        clip = clipping.clip_each_net(round.settings.clip)
        return optax.chain(clip, round.descent.along(round.learning_rate))

    return Method(
        init_server=mentee.init_server,
        init_client=mentee.init_client,
        broadcast=averages.broadcast,
        receive=mentee.receive,
        loss=loss,
        optimizer=optimizer,
        upload=averages.upload_of(lambda client: variables_of(client, mentee.SHARED)),
        aggregate=averages.aggregate,
        predict=mentee.predict,
        nets=lambda server: {"mentee": server},
        collect=None,
        weighting="uniform",
        shared=Shared(),
    )
