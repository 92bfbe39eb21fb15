"""ProtoNorm: prototypes spread over the unit sphere (alignment) and multiplied by s (upscaling)."""

import jax

from protonorm_jax import settings, thomson
from protonorm_jax.methods.method import Method, Received, Round, Setup
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.types import Prototypes


@settings.group
class Settings:
    """Of ProtoNorm."""

    proximity: float = prototypes.proximity()
    distance: str = prototypes.distance()
    scale: float = settings.setting(
        80.0,
        "s: length of the prototypes as sent",
        traced=True,
        above=0,
        tune=settings.between(1, 200, log=True),
    )
    upscale: bool = settings.setting(
        True,
        "upscaling: whether prototypes are sent with length s; without it alone they have length "
        "1, and without alignment that of the plain averages",
        probe=(True, False),
        later=True,
    )
    align: str = settings.setting(
        "auto",
        "alignment: how the server spreads prototypes over the sphere; none leaves them as they "
        "point",
        choices=thomson.ALIGNMENTS,
        probe=("auto", "none"),
        reference="reference",
    )
    weighting: str = prototypes.weighting()
    collect: str = prototypes.collect(reference="before")


def protonorm(setup: Setup, fixed: Settings) -> Method:
    """Prototype alignment and upscaling.

    The server keeps the aligned unit prototypes and starts each round from the fresh average; a
    class that nobody uploaded this round keeps its last prototype. It sends them multiplied by
    `scale`; for the nearest prototype that makes no difference, all being equally long.

    The paper's ablation: `align="none"` leaves the averages' directions as they are and scales
    unit vectors, `upscale=False` sends vectors of length 1, and both together send the averages
    as they are, which is FedProto.

    Source: arXiv:2507.04310. The reference code stops its alignment early (`align="reference"`)
    and uploads the prototypes of the model before this round's training (`collect="before"`).
    """
    plain = fixed.align == "none" and not fixed.upscale

    def broadcast(server: Prototypes, round: Round) -> tuple[Prototypes, int]:
        vectors = server.vectors * round.settings.scale if fixed.upscale else server.vectors
        return Prototypes(vectors, server.known), vectors.size

    def aggregate(
        key: jax.Array, server: Prototypes, received: Received, round: Round
    ) -> tuple[Prototypes, dict[str, jax.Array]]:
        del key, round
        means = class_table.average(received.each, server, weighting=fixed.weighting)
        result = thomson.align(means.vectors, means.known, method=fixed.align)
        aligned = means if plain else Prototypes(result.points, means.known)
        info = {
            "align_energy": result.energy,
            "align_gap": result.gap,
            "align_iterations": result.iterations,
        }
        return aligned, prototypes.separation(means, aligned) | info

    return Method(
        init_server=lambda *_: prototypes.unknown(setup.num_classes, setup.feature_dim),
        broadcast=broadcast,
        loss=prototypes.loss_of(fixed.distance),
        observe=prototypes.observe_features(setup.num_classes),
        upload=prototypes.upload,
        aggregate=aggregate,
        predict=prototypes.predict,
        predictor="prototype",
        show=prototypes.show,
        collect=fixed.collect,
        rows="arrived",
    )
