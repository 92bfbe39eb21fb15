"""The table of federated methods. Adding one is a file here and a row in `METHODS`.

A row is a factory, `factory(setup, fixed) -> Method`, and the method's group of settings. The
factory sees the untraced settings alone (`fixed`), hooks see all of them (`round.settings`).
"""

from protonorm_jax.methods import (
    fd,
    fedavg,
    fedgen,
    fedgh,
    fedkd,
    fedl2g,
    fedmrl,
    fedproto,
    fedtgp,
    fml,
    protonorm,
)
from protonorm_jax.methods.lg_fedavg import lg_fedavg
from protonorm_jax.methods.local import local
from protonorm_jax.methods.method import (
    LossInfo,
    Method,
    Received,
    Round,
    Setup,
    Shared,
    Upload,
    own_predictor,
)
from protonorm_jax.methods.shared import prototypes
from protonorm_jax.methods.table import METHODS, Row, build, load_file, settings_of

__all__ = [
    "METHODS",
    "LossInfo",
    "Method",
    "Received",
    "Round",
    "Row",
    "Setup",
    "Shared",
    "Upload",
    "build",
    "load_file",
    "own_predictor",
    "settings_of",
]

METHODS["protonorm"] = Row(
    protonorm.protonorm,
    protonorm.Settings,
    up="prototypes of the client's classes, C_i D",
    down="aligned prototypes of all classes, C D",
    source="arXiv:2507.04310",
    notes=prototypes.notes,
)
METHODS["fedproto"] = Row(
    fedproto.fedproto,
    fedproto.Settings,
    up="prototypes of the client's classes, C_i D",
    down="average prototypes of all classes, C D",
    source="arXiv:2105.00243",
    notes=prototypes.notes,
)
METHODS["local"] = Row(local, up="nothing", down="nothing", source="the baseline")
METHODS["fedavg"] = Row(
    fedavg.fedavg,
    fedavg.Settings,
    up="the model, P and its running statistics",
    down="the average model, to all clients, P and its running statistics",
    source="arXiv:1602.05629",
)
METHODS["fml"] = Row(
    fml.fml,
    fml.Settings,
    up="the shared model, P_g and its running statistics",
    down="the average shared model, P_g and its running statistics",
    source="arXiv:2006.16765",
)
METHODS["fedtgp"] = Row(
    fedtgp.fedtgp,
    fedtgp.Settings,
    up="prototypes of the client's classes, C_i D",
    down="trained prototypes of all classes, C D",
    source="arXiv:2401.03230",
    notes=prototypes.notes,
)
METHODS["lg_fedavg"] = Row(
    lg_fedavg,
    up="the head, H",
    down="the average head, to all clients, H",
    source="arXiv:2001.01523",
)
METHODS["fd"] = Row(
    fd.fd,
    fd.Settings,
    up="mean logits of the client's classes, C_i C",
    down="average logits of all classes, C C",
    source="arXiv:1811.11479",
)
METHODS["fedgh"] = Row(
    fedgh.fedgh,
    fedgh.Settings,
    up="mean features of the client's classes, C_i D",
    down="the trained head, to all clients, H",
    source="arXiv:2303.13137",
)
METHODS["fedkd"] = Row(
    fedkd.fedkd,
    fedkd.Settings,
    up="the shared model at a lower rank, r (m + n + 1) of an m x n matrix, and its running "
    "statistics",
    down="the average shared model at a lower rank, to all clients, and its running statistics",
    source="arXiv:2108.13323",
)
METHODS["fedmrl"] = Row(
    fedmrl.fedmrl,
    fedmrl.Settings,
    up="the shared model, P_g and its running statistics",
    down="the average shared model, P_g and its running statistics",
    source="arXiv:2406.00488",
)
METHODS["fedgen"] = Row(
    fedgen.fedgen,
    fedgen.Settings,
    up="the head, H",
    down="the average head and the generator, to all clients, H + |G|",
    source="arXiv:2105.10056",
)
METHODS["fedl2g"] = Row(
    fedl2g.fedl2g,
    fedl2g.Settings,
    up="gradients of the guiding vectors of the classes studied, at most C_i D (C_i C for logits)",
    down="guiding vectors of all classes, C D (C C for logits)",
    source="arXiv:2410.06490",
)
