"""A disk that takes no long files."""

import resource
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size):
    """As on a full disk: what makes a file longer fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
