"""How a request at the gateway fails: one error with a code that faces translate, and words that can be shown."""


class GatewayError(Exception):
    """A request failed.

    `code`: model-not-found, no-executor, bad-request, too-long, payment, overloaded (everybody is busy), rate-limited
    (this user asks too much), slow-reader, failed. `retry_after`: seconds after which asking again may help, if known.
    """

    def __init__(self, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after


def readable(text: str, characters_max: int) -> str:
    """Return what strangers wrote as it may stand in a line of a log or in an error: bounded, nothing unprintable."""
    return "".join(character for character in text[:characters_max] if character.isprintable())
