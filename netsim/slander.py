"""What a liar says that it read of an answer."""

from dataclasses import replace

from node.protocol.draws import Prefill


def slandered(one: Prefill, vocabulary_size: int) -> Prefill:
    """Return what a prefill told of a place, turned: other tokens than the likely ones are likely."""
    turned = {(token + 1) % vocabulary_size: value for token, value in one.logprobs.items()}
    return replace(one, logprobs={**dict.fromkeys(one.logprobs, min(one.logprobs.values()) - 10.0), **turned})
