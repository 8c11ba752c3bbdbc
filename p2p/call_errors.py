"""How calls fail, and what a failure in a nursery is due to."""

from typing import TypeVar

ErrorKind = TypeVar("ErrorKind", bound=Exception)


class CallError(Exception):
    """A call failed: `code` is a word of the peer's, or one of those below.

    `unreachable`, `lost`, `deadline`, `busy`, `no-method`, `overload`, `cancelled`, `unsupported-version`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def find_error(error: BaseException, kind: type[ErrorKind]) -> ErrorKind | None:
    """Return the error of `kind` that `error` is, or that a group is full of: handlers with a nursery raise groups."""
    if isinstance(error, kind):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = [find_error(inner, kind) for inner in error.exceptions]
    return found[0] if all(inner is not None for inner in found) else None


def is_due_to(error: BaseException, cause: BaseException) -> bool:
    """Whether `error` is `cause`, was raised because of it, or is a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_due_to(inner, cause) for inner in error.exceptions)
    seen: BaseException | None = error
    while seen is not None and seen is not cause:
        seen = seen.__cause__
    return seen is cause
