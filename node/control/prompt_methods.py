"""The control socket's methods about prompts that were handed in: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.fields import PromptIdText
from node.control.methods import Emit, Method, NoParams, Params
from node.control.prompt_views import PromptAnswerView, PromptAsksView, ReclaimedView
from node.control.views import View


class PromptShowParams(Params):
    """Which prompt."""

    ask_id: PromptIdText


class PromptReclaimParams(Params):
    """Which prompt on chain."""

    prompt_id: int = Field(ge=0)


class PromptOperations(Protocol):
    """What the daemon tells and does about prompts. Methods raise RpcError for what can be acted on."""

    async def list_prompts(self) -> PromptAsksView:
        """Return the prompts that are remembered."""

    async def show_prompt(self, params: PromptShowParams) -> PromptAnswerView:
        """Return a prompt and its answer."""

    async def reclaim_prompt(self, params: PromptReclaimParams) -> ReclaimedView:
        """Take back the escrow of a prompt that nobody answered."""


def prompt_method_table(operations: PromptOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def listed(_params: NoParams, _emit: Emit) -> View:
        return await operations.list_prompts()

    async def shown(params: PromptShowParams, _emit: Emit) -> View:
        return await operations.show_prompt(params)

    async def reclaimed(params: PromptReclaimParams, _emit: Emit) -> View:
        return await operations.reclaim_prompt(params)

    return {
        "prompts_list": Method(NoParams, listed),
        "prompts_show": Method(PromptShowParams, shown),
        "prompts_reclaim": Method(PromptReclaimParams, reclaimed),
    }
