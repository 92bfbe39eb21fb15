"""FedAvg: one architecture for all, its parameters averaged."""

import jax

from protonorm_jax import settings
from protonorm_jax.methods.method import Method, Setup, Shared, variables_of
from protonorm_jax.methods.shared import averages
from protonorm_jax.types import Client, Models, Variables


@settings.group
class Settings:
    """Of FedAvg."""

    statistics: str = settings.setting(
        "average",
        "running statistics of batch norm are averaged like parameters, or stay the client's own "
        "(local)",
        choices=("average", "local"),
        reference="local",
    )


def fedavg(setup: Setup, fixed: Settings) -> Method:
    """Every client goes on from the server's model, which is the average of theirs.

    Clients weigh as many training samples as they have. The first model is client 0's.

    Source: McMahan et al. 2017 (arXiv:1602.05629), w <- sum_i (n_i / n) w_i over the participants
    of a round. Running statistics are averaged with the same weights and count as floats;
    `statistics="local"` leaves them to the clients.
    """
    del setup
    average_statistics = fixed.statistics == "average"

    def sent(variables: Variables) -> Variables:
        """The part of a model that travels."""
        return variables if average_statistics else {"params": variables["params"]}

    def init_server(key: jax.Array, models: Models, first: Variables) -> Variables:
        del key, models
        return sent(first)

    def receive(client: Client, down: Variables, models: Models) -> Client:
        del models
        statistics = down.get("batch_stats", client.statistics["model"])
        return Client({"model": down["params"]}, {"model": statistics})

    return Method(
        init_server=init_server,
        broadcast=averages.broadcast,
        receive=receive,
        upload=averages.upload_of(lambda client: sent(variables_of(client))),
        aggregate=averages.aggregate,
        nets=lambda server: {"model": server},
        collect=None,
        sent_to="all",
        shared=Shared("private"),
    )
