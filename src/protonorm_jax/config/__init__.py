"""The settings of a run: what there are, what they mean together, and how they are read."""

from protonorm_jax.config.dealing import DEALING as DEALING
from protonorm_jax.config.dealing import FIXED as FIXED
from protonorm_jax.config.dealing import PARTITIONS as PARTITIONS
from protonorm_jax.config.dealing import check_given as check_given
from protonorm_jax.config.dealing import sigma_of as sigma_of
from protonorm_jax.config.fields import PRECISIONS as PRECISIONS
from protonorm_jax.config.fields import Config as Config
from protonorm_jax.config.given import method_in as method_in
from protonorm_jax.config.given import read_file as read_file
from protonorm_jax.config.recorded import as_recorded as as_recorded
from protonorm_jax.config.recorded import complete as complete
from protonorm_jax.config.recorded import from_dict as from_dict
from protonorm_jax.config.recorded import from_recorded as from_recorded
from protonorm_jax.config.recorded import load as load
from protonorm_jax.config.recorded import load_values as load_values
from protonorm_jax.config.recorded import with_bases as with_bases
from protonorm_jax.config.recorded import without_unset as without_unset
from protonorm_jax.config.training import AUGMENTATIONS as AUGMENTATIONS
from protonorm_jax.config.training import rates as rates
from protonorm_jax.config.written import FORMS as FORMS
from protonorm_jax.config.written import text_of as text_of
