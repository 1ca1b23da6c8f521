"""Errors that a user can mend, and the wish to stop."""


class UserError(Exception):
    """A mistake in the input. Its message says what was given, what is allowed and how to mend it.

    Command-line programs print the message without a traceback and exit with code 2.
    """


class ConfigError(UserError):
    """A configuration value that cannot be honoured."""


class LostProcessError(Exception):
    """Another process of this run died, or never came.

    No mistake of the user: the command ends with code 1, and `rnope launch` starts it again.
    """


class Stopped(BaseException):
    """Somebody asked the program to end while there was nothing to save.

    Not an Exception: nothing that handles errors on the way may take it for one.
    """
