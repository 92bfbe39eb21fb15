"""The one exception for mistakes a user can mend."""


class UsageError(ValueError):
    """A setting, file or data set that cannot be used.

    The message is one line that names the field, the rule and the value, as in
    ``Config.alpha must be > 0, got -1.0``. The command line prints it and exits with 2.
    """
