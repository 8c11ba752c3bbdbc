"""Answers a prompt to its end, for those that are not streamed: prompts on chain and open prompts by gossip."""

from node.ports import Engine, EngineFailedError, GenerationRequest
from node.protocol.records import ModelRecord
from node.services.executor import USER_PRIORITY, render
from node.services.prompt_content import AnswerContent, PromptContent, PromptContentError
from node.services.stops import text_before_stop


async def whole_answer(
    engine: Engine,
    model: ModelRecord,
    content: PromptContent,
    *,
    tokens_max: int,
    seed: int,
    private: bool = False,
) -> AnswerContent:
    """Return the answer, which with its prompt has at most `tokens_max` tokens; `seed` is used if `content` has none.

    Raises PromptContentError if the prompt leaves no room for an answer, EngineFailedError, EngineRefusedError.
    """
    prompt_ids = await render(engine, content.prompt)
    room = min(tokens_max, model.context_length) - len(prompt_ids)
    if room < 1:
        raise PromptContentError(
            f"the prompt has {len(prompt_ids)} tokens: {tokens_max} are paid for, {model.context_length} can be read"
        )
    if any(token >= engine.vocabulary_size for token in content.prompt.token_ids):
        raise PromptContentError("the prompt has tokens the model does not know")
    request = GenerationRequest(
        prompt_ids=prompt_ids,
        max_tokens=min(room, content.max_output_tokens or room),
        sampling=content.sampling,
        seed=seed if content.seed is None else content.seed,
        stop=content.stop,
        priority=USER_PRIORITY,
        response_format=content.response_format,
        private=private,
    )
    tokens: list[int] = []
    texts: list[str] = []
    finish_reason = ""
    async with engine.generate(request) as chunks:
        async for chunk in chunks:
            tokens.extend(chunk.token_ids)
            texts.append(chunk.text)
            finish_reason = chunk.finish_reason or finish_reason
    if not tokens or not finish_reason:
        raise EngineFailedError("the engine's answer has no end")
    return AnswerContent(prompt_ids, tuple(tokens), text_before_stop("".join(texts), content.stop), finish_reason)
