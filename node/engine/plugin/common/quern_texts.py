"""Has vLLM's server leave the texts of tokens out of log-probabilities, for requests that want numbers alone.

Purpose: proofs and audits are made of many log-probabilities, and vLLM looks up the text of each token that it tells
of: most of its server's work on them, done by the process that streams users' answers, which wait meanwhile. Requests
with `vllm_xargs: {"quern_texts": 0}` are told of tokens without texts. Others are not touched.

Detail: the part of the server that puts log-probabilities together goes without texts where it has no tokenizer, as in
servers that are started without one; here it is given none for these requests. It is the same with GPUs and without.
vLLM calls this in each of its processes, by the entry point in the `.dist-info` beside it. Runs in the engine's
environment.
"""

import inspect
import logging
from typing import Any

log = logging.getLogger("vllm.quern")
FIELD = "quern_texts"
NONE = 0
METHOD = "from_new_request"
NEEDED = {"tokenizer", "request"}
"""What vLLM's function must take for ours to mean what it says: as in vLLM 0.32."""


def offer() -> None:
    """Have all log-probabilities of this process told without texts where a request wants that."""
    try:
        from vllm.v1.engine.logprobs import LogprobsProcessor  # noqa: PLC0415 - of the engine's environment
    except ImportError:
        log.warning("Quern's plug-in does not know this vLLM: %s is not offered", FIELD)
    else:
        offer_in(LogprobsProcessor)


def offer_in(processor: type[Any]) -> None:
    """Have this class make processors without a tokenizer for the requests that want no texts."""
    original = getattr(processor, METHOD, None)
    if getattr(original, "leaves_texts_out", False):
        return
    if original is None or not NEEDED.issubset(inspect.signature(original).parameters):
        log.warning("Quern's plug-in does not know this vLLM's log-probabilities: %s is not offered", FIELD)
        return

    def from_new_request(_: type[Any], tokenizer: Any, request: Any) -> Any:
        return original(tokenizer=None if wants_no_texts(request) else tokenizer, request=request)

    from_new_request.leaves_texts_out = True  # type: ignore[attr-defined]  # a mark, so that it is not wrapped twice
    setattr(processor, METHOD, classmethod(from_new_request))


def wants_no_texts(request: Any) -> bool:
    """Whether a request of vLLM's has our field."""
    extra = getattr(request.sampling_params, "extra_args", None) or {}
    return bool(extra.get(FIELD) == NONE)
