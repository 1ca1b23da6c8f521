"""Errors that a user can mend."""


class UserError(Exception):
    """A mistake in the input. Its message says what was given, what is allowed and how to mend it.

    Command-line programs print the message without a traceback and exit with code 2.
    """


class ConfigError(UserError):
    """A configuration value that cannot be honoured."""
