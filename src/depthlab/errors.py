"""The one kind of error that is shown to a person without a traceback."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the cause, the value and the remedy."""
