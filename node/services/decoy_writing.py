"""Writes decoys: a request of a given shape, with words that this node's own model makes up.

*Detail.* The model is told what to write, each time about something else; where it knows no conversations, it goes on
from a few words. Its text is cut where a sentence or a word ends, within the step of lengths that the shape says.
"""

import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from node.ports import ChatMessage, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import ModelId
from node.protocol.sampling import SEED_MAX, SamplingParameters
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest
from node.services.receipt_tokens import CheckingEngine
from node.services.request_shapes import USUAL_STOPS, RequestShape, TurnShape, step

WRITING_PRIORITY = 10
"""Users' requests, at 0, run first."""
ROUNDS_MAX = 8
"""Of writing one text: a model may end long before the length that is wanted."""
CHARACTERS_PER_WORD = 6
CHARACTERS_PER_TOKEN = 3
"""Fewer than most have: what is too long is cut."""
TOKENS_MIN = 16
SENTENCE_ENDS = ".?!\n"
THOUGHTS_END = "</think>"
"""What stands before it the model only thought."""
SEEDS_OF_USERS = 10_000
"""People take small numbers."""
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "user")
TOPICS = (
    "a train journey", "bread", "a database that is slow", "the moon", "a letter to a landlord", "a spreadsheet",
    "learning Spanish", "a Python script", "tomatoes", "a birthday speech", "the French revolution", "knee pain",
    "a job interview", "a used car", "fractions", "a poem", "Kubernetes", "cats", "income tax", "a novel",
    "a shell command", "a holiday in Portugal", "JavaScript promises", "wine", "a marketing plan", "probability",
    "a contract", "sleep", "an unexpected error message", "regular expressions", "a bicycle", "chess", "the weather",
    "translation of an e-mail", "a recipe", "history of music", "an essay", "Rust", "gardening", "a report",
)  # fmt: skip
KINDS = ("question", "request", "short message", "task", "complaint", "problem", "list of questions", "draft")
VERBS = ("get", "search", "list", "create", "update", "find", "book", "check", "send", "delete")
NOUNS = ("weather", "flights", "orders", "users", "documents", "events", "prices", "messages", "files", "tickets")
PARAMETERS = ("query", "id", "date", "city", "limit", "name", "status", "from", "to", "language")


@runtime_checkable
class WritingEngine(CheckingEngine, Protocol):
    """An engine of this node's own: it makes up questions and audits answers."""

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the model's chat template and tokenize, ready for generation."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text`."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerationChunk]]:
        """Generate; leaving the context aborts the generation at the engine."""


class DecoyWriter:
    """Writes requests with one engine. Raises what the engine raises."""

    def __init__(self, engine: WritingEngine, source: random.Random) -> None:
        self._engine = engine
        self._source = source

    async def write(self, shape: RequestShape, model_id: ModelId) -> ChatRequest:
        """Return a request of this shape, with words of its own."""
        source = self._source
        topic = source.choice(TOPICS)
        functions = [f"{source.choice(VERBS)}_{source.choice(NOUNS)}" for _ in range(shape.tools)]
        return ChatRequest(
            model_id=model_id,
            prompt=await self._prompt(shape, topic, functions),
            max_tokens=shape.max_tokens,
            sampling=shape.sampling,
            seed=source.randrange(SEEDS_OF_USERS) if shape.is_seeded else None,
            stop=tuple(text or source.choice(USUAL_STOPS) for text in shape.stop),
            logprobs=shape.logprobs,
            private=shape.private,
        )

    async def _prompt(self, shape: RequestShape, topic: str, functions: Sequence[str]) -> Prompt:
        if shape.text is not None:
            return Prompt(text=await self._text(f"Write the beginning of a text about {topic}.", topic, shape.text))
        if shape.token_ids:
            least, beyond = step(shape.token_ids)
            count = self._source.randrange(least, beyond)
            return Prompt(token_ids=await self._token_ids(topic, count))
        turns: list[Turn] = []
        for turn in shape.turns:
            turns.append(await self._turn(turn, topic, turns, functions))
        tools = [self._tool(name) for name in functions]
        return Prompt(tuple(turns), tools=json.dumps(tools, separators=(",", ":")) if tools else "")

    async def _turn(self, shape: TurnShape, topic: str, before: Sequence[Turn], functions: Sequence[str]) -> Turn:
        source = self._source
        said: Sequence[Turn] = ()
        if shape.role == "system":
            wish = f"Write the instructions that a developer gives to an assistant for {topic}."
        elif shape.role == "tool":
            wish = f"Write a JSON object with facts about {topic}."
        elif shape.role == "assistant":
            wish, said = "Go on.", before
        else:
            wish = f"Write a {source.choice(KINDS)} about {topic}, as somebody would send it to an assistant."
        content = await self._text(wish, topic, shape.characters, said)
        name = source.choice(NAMES) if shape.is_named else ""
        calls = [self._call(functions) for _ in range(shape.calls)]
        made = json.dumps(calls, separators=(",", ":")) if calls else ""
        return Turn(shape.role, content, name, _call_id_before(before, shape.role, source), made)

    def _tool(self, name: str) -> dict[str, object]:
        wanted = self._source.sample(PARAMETERS, 2)
        properties = {parameter: {"type": "string", "description": f"The {parameter}."} for parameter in wanted}
        parameters = {"type": "object", "properties": properties, "required": wanted[:1]}
        described = {"name": name, "description": name.replace("_", " ").capitalize() + ".", "parameters": parameters}
        return {"type": "function", "function": described}

    def _call(self, functions: Sequence[str]) -> dict[str, object]:
        name = self._source.choice(functions) if functions else f"{VERBS[0]}_{NOUNS[0]}"
        arguments = json.dumps({self._source.choice(PARAMETERS): self._source.choice(NOUNS)})
        called = {"name": name, "arguments": arguments}
        return {"id": f"call_{self._source.getrandbits(96):024x}", "type": "function", "function": called}

    async def _text(self, wish: str, topic: str, characters: int, said: Sequence[Turn] = ()) -> str:
        """Return a text within the step of lengths that begins with `characters`; shorter if the model has no more."""
        least, beyond = step(characters)
        if beyond <= 1:
            return ""
        told = f"{wish} Take about {max(1, characters // CHARACTERS_PER_WORD)} words, and write nothing else."
        messages = [ChatMessage(turn.role, turn.content) for turn in said if turn.role != "tool"]
        if not messages or messages[-1].role != "user":
            messages.append(ChatMessage("user", told))
        try:
            start = await self._engine.render_chat(messages)
        except EngineRefusedError:  # it knows no conversations
            start = await self._engine.tokenize(f"{topic} {self._source.choice(NOUNS)}")
        text = ""
        for _ in range(ROUNDS_MAX):
            wanted = max(TOKENS_MIN, (beyond - len(text)) // CHARACTERS_PER_TOKEN)
            text = f"{text}\n{await self._generated(start, wanted)}".strip()
            if len(text) >= least:
                break
        return cut(text, least, beyond)

    async def _token_ids(self, topic: str, count: int) -> tuple[int, ...]:
        found: list[int] = []  # without the topic: whoever has this list would know it
        request = self._request(await self._engine.tokenize(topic), count)
        async with self._engine.generate(request) as chunks:
            async for chunk in chunks:
                found += chunk.token_ids
        return tuple(found[:count])

    async def _generated(self, start: tuple[int, ...], tokens: int) -> str:
        parts = []
        async with self._engine.generate(self._request(start, tokens)) as chunks:
            async for chunk in chunks:
                parts.append(chunk.text)
        return "".join(parts).rpartition(THOUGHTS_END)[2].strip()

    def _request(self, start: tuple[int, ...], tokens: int) -> GenerationRequest:
        return GenerationRequest(
            prompt_ids=start,
            max_tokens=tokens,
            sampling=SamplingParameters(),
            seed=self._source.randint(0, SEED_MAX),
            stop=(),
            priority=WRITING_PRIORITY,
        )


def cut(text: str, least: int, beyond: int) -> str:
    """Return the beginning of a text, of `least` characters or more and less than `beyond`, which ends where a sentence
    does, or a word; all of it if it is no longer."""
    if len(text) < beyond:
        return text
    ends = [end for end in range(max(1, least), beyond) if not text[end - 1].isspace()]
    rules: tuple[Callable[[int], bool], ...] = (
        lambda end: text[end - 1] in SENTENCE_ENDS,
        lambda end: text[end].isspace(),
        lambda _: True,
    )
    found = next((fitting for rule in rules if (fitting := [end for end in ends if rule(end)])), [beyond - 1])
    return text[: found[-1]]


def _call_id_before(before: Sequence[Turn], role: str, source: random.Random) -> str:
    """Return the id of the call that a message of role `tool` answers."""
    if role != "tool":
        return ""
    calls = next((turn.tool_calls for turn in reversed(before) if turn.tool_calls), "")
    if calls:
        return str(source.choice(json.loads(calls))["id"])
    return f"call_{source.getrandbits(96):024x}"
