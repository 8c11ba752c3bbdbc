"""The cheats of the system test still fit the daemon they bend: found here in a second, there after minutes."""

import inspect

from node.protocol.nonces import PROMPT_TOKENS
from node.protocol.tails import TAIL_TOKENS
from node.services.validating import ValidatingService
from tests.system.copying_validator import CopyingValidator
from tests.system.forging_engine import forge, is_mined


def test_the_copying_validator_replaces_what_the_honest_one_does() -> None:
    honest = inspect.signature(vars(ValidatingService)["_judge_all"])
    assert inspect.signature(vars(CopyingValidator)["_judge_all"]) == honest


def test_the_forger_meddles_with_its_own_nonces_only() -> None:
    own, validated = [1] * PROMPT_TOKENS, [1] * (PROMPT_TOKENS + TAIL_TOKENS)
    assert is_mined({"prompt": [own, own], "prompt_logprobs": 0})
    assert not is_mined({"prompt": [validated], "prompt_logprobs": 0})
    assert not is_mined({"prompt": [own]})


def test_every_nonce_is_forged() -> None:
    reply = {"choices": [{"prompt_logprobs": [None, {"7": {"logprob": -1.0}}]} for _ in range(4)]}
    forge(reply)
    assert all(choice["prompt_logprobs"][1] != {"7": {"logprob": -1.0}} for choice in reply["choices"])
