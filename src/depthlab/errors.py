"""The one kind of error that is shown to a person without a traceback."""

from depthlab.shown_text import lines


class InputError(ValueError):
    """Something the user gave is wrong. The message names the cause, the value and the remedy."""

    def __str__(self) -> str:
        """The message without control characters: values in it may be from files of others."""
        return lines(super().__str__())
