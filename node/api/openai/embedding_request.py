"""Embeddings: a vector for each text. Reference: the OpenAI API reference, embeddings."""

import base64
from typing import Annotated, Any, Literal

from pydantic import Field

from node.api.openai.bodies import Part
from node.api.openai.completion_request import TokenIds
from node.api.openai.faults import invalid
from node.api.openai.parameters import MODEL_CHARACTERS_MAX, QuernOptions
from node.protocol.identifiers import ModelId
from node.protocol.sketches import INPUTS_MAX
from node.services.embedding import Embeddings, floats_of
from node.services.embedding_frames import EmbeddingInput

Text = Annotated[str, Field(min_length=1)]


class EmbeddingParameters(Part):
    """A request for embeddings."""

    model: str = Field(min_length=1, max_length=MODEL_CHARACTERS_MAX)
    input: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=INPUTS_MAX, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=INPUTS_MAX, fail_fast=True)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    quern: QuernOptions = QuernOptions()

    @property
    def model_id(self) -> ModelId:
        """Whose vectors are wanted."""
        return ModelId(self.model)

    def inputs(self) -> list[EmbeddingInput]:
        """Return what is to become vectors. Raises ApiError."""
        given = self.input
        if isinstance(given, str):
            return [EmbeddingInput(given)]
        ids = tuple(entry for entry in given if isinstance(entry, int))
        try:
            if ids:
                return [EmbeddingInput(token_ids=ids)]
            return [
                EmbeddingInput(entry) if isinstance(entry, str) else EmbeddingInput(token_ids=tuple(entry))
                for entry in given
                if not isinstance(entry, int)
            ]
        except ValueError as error:
            raise invalid(f"input: {error}", "input") from error

    def body(self, embeddings: Embeddings) -> dict[str, Any]:
        """Return the response."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(embeddings.vectors)
        ]
        usage = {"prompt_tokens": embeddings.prompt_tokens, "total_tokens": embeddings.prompt_tokens}
        return {"object": "list", "data": data, "model": embeddings.model_id, "usage": usage}

    def _encoded(self, vector: bytes) -> str | list[float]:
        return base64.b64encode(vector).decode() if self.encoding_format == "base64" else floats_of(vector)
