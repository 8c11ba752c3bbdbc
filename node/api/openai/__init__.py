"""The OpenAI-compatible face of a gateway. What a request asks for is done or refused, never quietly left out."""

from node.api.openai.application import make_app

__all__ = ["make_app"]
