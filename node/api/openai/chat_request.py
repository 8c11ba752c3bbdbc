"""A chat as users write it, and as the gateway takes it. Reference: the OpenAI API reference, chat completions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from node.api.openai.bodies import Part
from node.api.openai.faults import invalid
from node.api.openai.json_text import compact_json
from node.api.openai.parameters import TOKENS_ASKED_MAX, GenerationParameters, seed_of_choice
from node.api.openai.tools import TOOLS_MAX, Tool, ToolChoice, ToolUse
from node.services.frames import LOGPROBS_MAX, MESSAGES_MAX, Prompt, Turn
from node.services.gateway import ChatRequest

CALLS_IN_MESSAGE_MAX = 128
NAME_CHARACTERS_MAX = 256
CALL_ID_CHARACTERS_MAX = 256
PARTS_MAX = 1_024


class TextPart(Part):
    """A part of a message. Only text is served."""

    type: Literal["text"]
    text: str


class RefusalPart(Part):
    """What a model said in place of an answer."""

    type: Literal["refusal"]
    refusal: str


Text = str | Annotated[list[TextPart], Field(max_length=PARTS_MAX, fail_fast=True)]
AssistantText = str | Annotated[list[TextPart | RefusalPart], Field(max_length=PARTS_MAX, fail_fast=True)]


class Instruction(Part):
    """What the model is told about its task, or asked."""

    role: Literal["system", "developer", "user"]
    content: Text
    name: str | None = Field(default=None, max_length=NAME_CHARACTERS_MAX)

    def turn(self) -> Turn:
        """Return it as the network has it; `developer` is OpenAI's newer word for `system`."""
        role = "system" if self.role == "developer" else self.role
        return Turn(role, _plain(self.content), self.name or "")


class CalledFunction(Part):
    """A function that was called."""

    name: str = Field(min_length=1, max_length=NAME_CHARACTERS_MAX)
    arguments: str


class CallMade(Part):
    """A call that the model made."""

    id: str = Field(min_length=1, max_length=CALL_ID_CHARACTERS_MAX)
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Part):
    """What the model said, or called. SDKs send its messages back with all their fields, empty ones included."""

    role: Literal["assistant"]
    content: AssistantText | None = None
    name: str | None = Field(default=None, max_length=NAME_CHARACTERS_MAX)
    tool_calls: Annotated[list[CallMade], Field(max_length=CALLS_IN_MESSAGE_MAX)] | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    def turn(self) -> Turn:
        """Return it as the network has it."""
        calls = [call.model_dump() for call in self.tool_calls or ()]
        return Turn(
            "assistant",
            _plain(self.content if self.content is not None else self.refusal or ""),
            self.name or "",
            tool_calls=compact_json(calls, "messages") if calls else "",
        )


class ToolMessage(Part):
    """What a called function returned."""

    role: Literal["tool"]
    content: Text
    tool_call_id: str = Field(min_length=1, max_length=CALL_ID_CHARACTERS_MAX)
    name: str | None = Field(default=None, max_length=NAME_CHARACTERS_MAX)

    def turn(self) -> Turn:
        """Return it as the network has it."""
        return Turn("tool", _plain(self.content), self.name or "", tool_call_id=self.tool_call_id)


Message = Annotated[Instruction | AssistantMessage | ToolMessage, Field(discriminator="role")]


class JsonSchema(Part):
    """A schema that the answer must meet."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Part):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Part):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Part):
    """JSON that meets a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatParameters(GenerationParameters):
    """A request for a chat completion."""

    messages: list[Message] = Field(min_length=1, max_length=MESSAGES_MAX)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=TOKENS_ASKED_MAX)
    """OpenAI's newer word for `max_tokens`."""
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=LOGPROBS_MAX)
    tools: list[Tool] = Field(default=[], max_length=TOOLS_MAX)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = TextFormat(type="text")
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None

    def tool_use(self) -> ToolUse:
        """Return what `tools` and `tool_choice` come to. Raises ApiError."""
        return ToolUse(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)

    def requests(self) -> list[ChatRequest]:
        """Return one request for each answer that is wanted. Raises ApiError."""
        self.check_options()
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs: is only told with logprobs; set logprobs to true", "top_logprobs")
        tools = self.tool_use()
        if tools.is_demanded and not isinstance(self.response_format, TextFormat):
            raise invalid(
                "response_format: a call is demanded by tool_choice, and an answer cannot be both", "response_format"
            )
        try:
            prompt = Prompt(tuple(message.turn() for message in self.messages), tools=tools.shown())
        except ValueError as error:
            raise invalid(f"messages: {error}", "messages") from error
        sampling, response_format = self.sampling(), tools.response_format() or self._format_text()
        return [
            ChatRequest(
                model_id=self.model_id,
                prompt=prompt,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                sampling=sampling,
                seed=seed_of_choice(self.seed, index),
                stop=self.stops,
                logprobs=self.top_logprobs if self.logprobs else None,
                response_format=response_format,
                private=self.quern.private,
            )
            for index in range(self.n)
        ]

    def _format_text(self) -> str:
        if isinstance(self.response_format, TextFormat):
            return ""
        return compact_json(self.response_format.model_dump(by_alias=True, exclude_none=True), "response_format")


def _plain(content: str | list[TextPart] | list[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
