"""Errors out of nurseries: trio wraps them in groups, and callers of a service expect the error itself."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sole_error() -> Iterator[None]:
    """Raise the only error of a group in its place; a group of several stays what it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaf: BaseException = group
        while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
            leaf = leaf.exceptions[0]
        raise leaf from (None if leaf is not group else group.__cause__)
