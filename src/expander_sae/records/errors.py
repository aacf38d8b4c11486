"""The one error class for everything a user can cause."""


class ExpanderSaeError(ValueError):
    """What was expected, what was seen, and what to do about it.

    Raised for wrong shapes, NaN, damaged files, missing models and full disks; never for our own bugs.
    """


class ExpanderSaeWarning(UserWarning):
    """Something goes on that is probably not what was meant; the command line shows it in one line."""
