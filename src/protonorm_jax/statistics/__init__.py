"""What runs say together: arrays and records in, means, differences and intervals out."""

from protonorm_jax.statistics.comparison import Arm as Arm
from protonorm_jax.statistics.comparison import Comparison as Comparison
from protonorm_jax.statistics.comparison import SetApart as SetApart
from protonorm_jax.statistics.comparison import comparisons as comparisons
from protonorm_jax.statistics.intervals import Interval as Interval
from protonorm_jax.statistics.runs import Outcome as Outcome
from protonorm_jax.statistics.runs import Run as Run
from protonorm_jax.statistics.runs import outcome as outcome
from protonorm_jax.statistics.tables import Ranks as Ranks
from protonorm_jax.statistics.tables import Result as Result
from protonorm_jax.statistics.tables import check_against as check_against
from protonorm_jax.statistics.tables import every_result as every_result
from protonorm_jax.statistics.tables import plain as plain
from protonorm_jax.statistics.tables import ranks as ranks
from protonorm_jax.statistics.tables import results as results
