"""What the ModelRegistry takes for each field of a model, as types for files that people write.

Whatever passes here is not refused on chain for its form, so that nothing stops half way, with part of it paid for.
"""

import re
from typing import Annotated

from eth_utils.address import is_checksum_address
from pydantic import AfterValidator, Field

from node.protocol.cids import cid_to_bytes
from node.protocol.identifiers import Cid

MODELS_MAX = 256
MODEL_ID_LENGTH_MAX = 64
TEXT_BYTES_MAX = 512
QUANTIZATION_BYTES_MAX = 64
MODEL_ARGS_MAX = 64
"""These five are the ModelRegistry's."""
UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
MODEL_ID = re.compile(r"[a-z0-9._/-]+")


def _short(text: str) -> str:
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise ValueError(f"has {len(text.encode())} bytes; the registry takes {TEXT_BYTES_MAX}")
    return text


def _model_id(text: str) -> str:
    if not MODEL_ID.fullmatch(text) or len(text) > MODEL_ID_LENGTH_MAX:
        raise ValueError(f"expected 1 to {MODEL_ID_LENGTH_MAX} lower-case letters, digits, . _ - and /")
    return text


def _account(text: str) -> str:
    if not is_checksum_address(text):
        raise ValueError(f"{text[:64]!r} is not a checksummed address")
    return text


def _cid(text: str) -> str:
    cid_to_bytes(Cid(text))
    return text


Text = Annotated[str, AfterValidator(_short)]
Name = Annotated[Text, Field(min_length=1)]
ModelIdText = Annotated[str, AfterValidator(_model_id)]
CidText = Annotated[str, AfterValidator(_cid)]
AccountText = Annotated[str, AfterValidator(_account)]
ModelArgs = Annotated[list[Text], Field(max_length=MODEL_ARGS_MAX)]
Quantization = Annotated[str, Field(max_length=QUANTIZATION_BYTES_MAX, pattern=r"^[ -~]*$")]
VramMib = Annotated[int, Field(ge=0, le=UINT32_MAX)]
ThroughputPerNonce = Annotated[int, Field(ge=1, le=UINT64_MAX)]
UnitsOfComputePerToken = Annotated[int, Field(ge=1, le=UINT64_MAX)]
ContextLength = Annotated[int, Field(ge=1, le=UINT32_MAX)]
PocDistanceMax = Annotated[int, Field(ge=0, le=UINT64_MAX)]
