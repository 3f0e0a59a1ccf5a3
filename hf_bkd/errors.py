"""The one kind of error that a user can cause and mend."""


class UserError(ValueError):
    """Says in one sentence what is wrong with what the user passed, and what to do; the command line prints it bare."""
