"""What the daemon tells and does about prompts that were handed in, for its operator: over the desk."""

import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.prompt_methods import PromptReclaimParams, PromptShowParams
from node.control.prompt_views import PromptAnswerView, PromptAsksView, PromptAskView, ReclaimedView
from node.services.prompt_asks import AskState, PromptAsk
from node.services.prompt_desk import DeskError, PromptDesk


class DeskPromptOperations:
    """Implements node.control.prompt_methods.PromptOperations."""

    def __init__(self, desk: PromptDesk) -> None:
        self._desk = desk

    async def list_prompts(self) -> PromptAsksView:
        """All that are remembered, newest first."""
        await trio.lowlevel.checkpoint()
        return PromptAsksView(asks=[_view(ask) for ask in reversed(self._desk.asks())])

    async def show_prompt(self, params: PromptShowParams) -> PromptAnswerView:
        """One, and its answer."""
        try:
            ask = self._desk.get(params.ask_id)
            if ask.state is not AskState.ANSWERED:
                return PromptAnswerView(ask=_view(ask), text=None, finish_reason=None)
            answer = await self._desk.answer(ask)
        except DeskError as error:
            raise RpcError(ErrorCode.UNAVAILABLE, error.message, "See `quern prompts list`.") from error
        return PromptAnswerView(ask=_view(ask), text=answer.text, finish_reason=answer.finish_reason)

    async def reclaim_prompt(self, params: PromptReclaimParams) -> ReclaimedView:
        """Take the escrow back."""
        try:
            await self._desk.reclaim(params.prompt_id)
        except DeskError as error:
            raise RpcError(ErrorCode.REFUSED, error.message, "See `quern chain prompts`.") from error
        return ReclaimedView(prompt_id=params.prompt_id)


def _view(ask: PromptAsk) -> PromptAskView:
    return PromptAskView(
        ask_id=ask.ask_id,
        mode=ask.mode.value,
        state=ask.state.value,
        reason=ask.reason,
        model_id=ask.model_id,
        private=ask.private,
        asked_at=ask.asked_at,
        prompt_id=ask.prompt_id,
        prompt_cid=ask.prompt_cid,
        result_cid=ask.result_cid,
        executor=ask.executor,
        prompt_tokens=ask.prompt_tokens,
        output_tokens=ask.output_tokens,
        price=str(ask.price),
        transaction=None if ask.transaction_hash is None else "0x" + ask.transaction_hash.hex(),
    )
