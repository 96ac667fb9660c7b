"""The error a user can put right."""


class UserError(Exception):
    """Bad input: a message that names the file, key or value, what was expected, what to do.

    `main` prints it without a traceback and exits with code 2.
    """
