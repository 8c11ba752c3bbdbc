"""What `quern ask --open` and `--on-chain` hand in."""

import pytest

from node.control.methods import AskParams
from node.operations.daemon import prompt_wish
from node.services.frames import Prompt, Turn
from node.services.prompt_asks import AskMode
from tests.builders import model

PROMPT = Prompt((Turn("user", "hi"),))


def params(max_tokens: int) -> AskParams:
    return AskParams.model_validate({"messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens})


@pytest.mark.parametrize("mode", list(AskMode))
def test_the_length_of_an_answer_is_its_own_and_the_prompt_is_paid_for_beside_it(mode: AskMode) -> None:
    wish = prompt_wish(mode, model(), PROMPT, params(4))
    assert wish.max_output_tokens == 4
    assert wish.max_tokens >= 4 + len("hi") + 64  # a template may add so many to each message


def test_no_more_is_paid_for_than_the_model_can_read() -> None:
    assert prompt_wish(AskMode.OPEN, model(), PROMPT, params(2**20)).max_tokens == model().context_length
