"""LG-FedAvg: representations stay local, the head on top of them is averaged."""

from typing import Any

from protonorm_jax.methods.method import Method, Setup
from protonorm_jax.methods.shared import averages, heads


def lg_fedavg(setup: Setup, fixed: Any) -> Method:
    """Every client goes on from the server's head, which is the average of theirs.

    The loss is the cross-entropy, of all parameters. Clients weigh as many training samples as they
    have. The first head is client 0's, and all clients are sent the head in every round, whether
    they train or not. A head may have several layers, but all must have the same; running
    statistics stay with the clients.

    Source: Liang et al. 2020 (arXiv:2001.01523) as HtFLlib has it, w <- sum_i (n_i / n) w_i over
    the participants of a round.
    """
    del setup, fixed
    return Method(
        init_server=heads.init_server,
        broadcast=averages.broadcast,
        receive=heads.receive,
        upload=averages.upload_of(lambda client: client.params["model"]["head"]),
        aggregate=averages.aggregate,
        nets=lambda server: {"head": server},
        collect=None,
        sent_to="all",
        heads="equal",
    )
