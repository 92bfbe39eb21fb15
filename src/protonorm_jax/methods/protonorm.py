"""ProtoNorm: prototypes spread over the unit sphere (alignment) and multiplied by s (upscaling)."""

import jax

from protonorm_jax import thomson
from protonorm_jax.methods.method import Arrivals, Hyperparameters, Method
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.types import Prototypes


def protonorm(
    *, num_classes: int, feature_dim: int, align: str = "auto", weighting: str = "uniform"
) -> Method:
    """Prototype alignment and upscaling.

    Args:
      num_classes: C.
      feature_dim: D.
      align: the `method` of `thomson.align`.
      weighting: of the clients in the average, see `class_table.average`.

    The server keeps the aligned unit prototypes and starts each round from the fresh average; a
    class that nobody uploaded this round keeps its last prototypes. It sends them multiplied by
    `scale`; for the nearest prototype that makes no difference, all being equally long.

    Source: arXiv:2507.04310. The reference code stops its alignment early (`align="reference"`)
    and uploads the prototypes of the model before this round's training (`collect="before"`).
    """

    def aggregate(
        key: jax.Array,
        server: Prototypes,
        uploads: class_table.ClassSums,
        arrivals: Arrivals,
        hyperparameters: Hyperparameters,
    ) -> tuple[Prototypes, dict[str, jax.Array]]:
        del key, arrivals, hyperparameters
        means = class_table.average(uploads, server, weighting=weighting)
        result = thomson.align(means.vectors, means.known, method=align)
        aligned = Prototypes(result.points, means.known)
        info = {
            "align_energy": result.energy,
            "align_gap": result.gap,
            "align_iterations": result.iterations,
        }
        return aligned, prototypes.separation(means, aligned) | info

    return Method(
        hyperparameters={"proximity": 10.0, "scale": 80.0},
        init_server=lambda key: prototypes.unknown(num_classes, feature_dim),
        broadcast=prototypes.broadcast,
        loss=prototypes.loss,
        observe=prototypes.observe_features(num_classes),
        upload=prototypes.upload,
        aggregate=aggregate,
        predict=prototypes.predict,
    )
