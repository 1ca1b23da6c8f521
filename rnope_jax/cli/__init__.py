"""Commands: the `rnope` program, configuration files, how errors end."""
