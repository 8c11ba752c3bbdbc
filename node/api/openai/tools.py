"""The functions a chat offers the model, and how a demanded call is brought about.

`auto` leaves it to the model, which sees the functions through its chat template. `required` and a named function are
brought about by the engine: it is made to write JSON that is a call, so that models that know no tools can do it too.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from node.api.openai.bodies import Part
from node.api.openai.call_formats import CALLS_MAX, CallFormat, CallSyntax
from node.api.openai.faults import invalid
from node.api.openai.json_text import compact_json

TOOLS_MAX = 128
TOOL_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
DESCRIPTION_CHARACTERS_MAX = 16_384

ToolName = Annotated[str, Field(pattern=TOOL_NAME)]


class ToolFunction(Part):
    """A function: its name, what it does, and a JSON schema of its arguments."""

    name: ToolName
    description: str | None = Field(default=None, max_length=DESCRIPTION_CHARACTERS_MAX)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    """A tool. Only functions are served."""

    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(Part):
    """The name of a function."""

    name: ToolName


class NamedChoice(Part):
    """The demand that a certain function is called."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


class ToolUse:
    """What a chat's `tools` and `tool_choice` come to. Raises ApiError for those that do not go together."""

    def __init__(self, tools: list[Tool], choice: ToolChoice | None, *, parallel: bool) -> None:
        self._tools = {tool.function.name: tool for tool in tools}
        if len(self._tools) != len(tools):
            raise invalid("tools: each function has a name of its own", "tools")
        if choice is not None and choice != "none" and not tools:
            raise invalid("tool_choice: there are no tools to choose from", "tool_choice")
        if isinstance(choice, NamedChoice) and choice.function.name not in self._tools:
            raise invalid(
                f"tool_choice: there is no function {choice.function.name} in tools", "tool_choice.function.name"
            )
        self._choice = "auto" if choice is None else choice
        self._calls_max = CALLS_MAX if parallel else 1

    @property
    def is_demanded(self) -> bool:
        """Whether the answer must be a call."""
        return bool(self._tools) and self._choice not in ("auto", "none")

    @property
    def named(self) -> str:
        """The function that must be called, or empty."""
        return self._choice.function.name if isinstance(self._choice, NamedChoice) else ""

    def shown(self) -> str:
        """Return the tools that the model sees: a JSON array, or empty."""
        if not self._tools or self._choice == "none":
            return ""
        return compact_json([tool.model_dump(exclude_none=True) for tool in self._tools.values()], "tools")

    def syntax(self, form: CallFormat) -> CallSyntax | None:
        """Return how calls are found in the answer of a model that writes `form`; None if there are none to find."""
        if not self._tools or self._choice == "none":
            return None
        if self.named:
            form = CallFormat.ARGUMENTS
        elif self.is_demanded:
            form = CallFormat.LIST
        return CallSyntax(form, frozenset(self._tools), self.named, self._calls_max)

    def response_format(self) -> str:
        """Return the format that makes the engine write a demanded call, or empty."""
        if not self.is_demanded:
            return ""
        schema = _arguments_schema(self._tools[self.named].function) if self.named else self._list_schema()
        wanted = {"type": "json_schema", "json_schema": {"name": "tool_call", "schema": schema, "strict": True}}
        return compact_json(wanted, "tools")

    def _list_schema(self) -> dict[str, Any]:
        functions = [tool.function for tool in self._tools.values()]
        calls = [
            {
                "type": "object",
                "properties": {"name": {"type": "string", "enum": [f.name]}, "parameters": _arguments_schema(f)},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for f in functions
        ]
        schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
        if self._calls_max == 1:
            schema["maxItems"] = 1
        definitions = {name: d for f in functions for name, d in _definitions(f).items()}
        return schema | ({"$defs": definitions} if definitions else {})


def _arguments_schema(function: ToolFunction) -> dict[str, Any]:
    return function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


def _definitions(function: ToolFunction) -> dict[str, Any]:
    """Return the definitions that a schema refers to from its root: they must be at the root of ours."""
    definitions = (function.parameters or {}).get("$defs", {})
    return definitions if isinstance(definitions, dict) else {}
