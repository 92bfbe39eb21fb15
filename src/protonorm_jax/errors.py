"""The one exception for mistakes a user can mend, and the one warning that is for users."""


class Caution(RuntimeWarning, UserWarning):
    """A warning that is meant for whoever runs the program, and not for programmers.

    The command line prints it in one line, and goes on.
    """


class UsageError(ValueError):
    """A setting, file or data set that cannot be used.

    The message is one line that names the field, the rule and the value, as in
    ``Config.alpha must be > 0, got -1.0``. The command line prints it and exits with 2.
    """
