"""A run of a made-up method that decomposes matrices; prints what came of it.

Started as a process of its own, since what may go wrong with it is that it never ends.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from compiled import ARCHITECTURES

from protonorm_jax import methods
from protonorm_jax.config import Config
from protonorm_jax.methods.method import Method, Upload
from protonorm_jax.models import registry
from protonorm_jax.running import driver
from protonorm_jax.types import Dataset


def eigenvalues(matrix):
    return jnp.linalg.eigh(matrix)[0]


def spectral(setup, fixed):
    """Sends the spectrum of a layer. What the server makes of it becomes the bias of all heads."""
    decompose = jax.custom_batching.sequential_vmap(eigenvalues)

    def receive(client, down, models):
        head = {**client.params["model"]["head"], "bias": down[: setup.num_classes]}
        return client._replace(params={"model": {**client.params["model"], "head": head}})

    def upload(key, client, totals, data, down, round, *, models):
        kernel = client.params["model"]["base"]["fc"]["kernel"]
        return Upload(mean=decompose(kernel @ kernel.T), floats=64)

    def aggregate(key, server, received, round):
        # So high that whoever has received it predicts class 0.
        return received.mean.at[0].set(1e6), {}

    return Method(
        init_server=lambda *_: jnp.zeros(64),
        broadcast=lambda server, round: (server, server.size),
        receive=receive,
        upload=upload,
        aggregate=aggregate,
        show=lambda server: {"spectrum": server},
    )


def main():
    methods.METHODS["spectral"] = methods.Row(spectral)
    registry.ARCHITECTURES.update(ARCHITECTURES)
    rng = np.random.default_rng(0)
    labels = 1 + np.arange(240, dtype=np.int32) % 3  # Nobody holds class 0.
    dataset = Dataset(rng.integers(0, 256, (240, 8, 8, 1), dtype=np.uint8), labels, 4)
    results = []
    for parallel in ({"devices": 1}, {"devices": 2, "vmap_clients": 2}):
        config = Config(
            method="spectral",
            family="contract_plain",
            num_clients=5,
            partition="iid",
            feature_dim=12,
            shuffle=False,
            rounds=1,
            **parallel,
        )
        history = driver.run(config, dataset=dataset)
        spectrum = history.arrays["spectrum"].tolist()
        results.append({"spectrum": spectrum, "accuracy": history.rows[-1]["head_accuracy"]})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
