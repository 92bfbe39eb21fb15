"""Points on the unit sphere that repel each other: energies, alignment, the Thomson problem.

Reading order: `energies`, `simplices`, `descent`, `alignment`, `search`. Nothing here knows of
classes, clients or methods; all it sees is points and a mask.
"""

from protonorm_jax.thomson.alignment import ALIGNMENTS, AlignResult, align, reference_align
from protonorm_jax.thomson.energies import (
    energy,
    forces,
    lower_bound,
    mean_angle,
    min_angle,
    riesz_energy,
)
from protonorm_jax.thomson.search import MinimizeResult, best_known, minimize
from protonorm_jax.thomson.simplices import nearest_simplex, simplex

__all__ = [
    "ALIGNMENTS",
    "AlignResult",
    "MinimizeResult",
    "align",
    "best_known",
    "energy",
    "forces",
    "lower_bound",
    "mean_angle",
    "min_angle",
    "minimize",
    "nearest_simplex",
    "reference_align",
    "riesz_energy",
    "simplex",
]
