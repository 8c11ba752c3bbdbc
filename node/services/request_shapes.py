"""Shapes of requests: what an executor sees of one beside its words, so that decoys can be shaped like users' requests.

*Purpose.* Whoever can tell a decoy from a user's request serves that one alone with the true model. So a decoy takes
its shape from a request of a user of the same gateway that was answered lately, now and then, and where there was
none, from a mixture of usual ones; and the hour at which it is asked from the hours at which users ask.

*Detail.* Of a request are kept counts and parameters, never words; lengths only as one of four steps between powers of
two. They stay in memory. What no audit can judge (outside the rule of draws) has no shape, nor has what would be too
dear to imitate: these are never decoys.

Users may be executors, who would like to know the decoys by a mark that they taught the gateway. So each user has as
many decoys like its own requests as any other, however much it asks; what it alone sends, in any field or only in all
of them together, is in half of these, for an honest user may always send its own; and some decoys are like nobody's
request.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from node.protocol.sampling import SamplingParameters
from node.services.frames import Turn
from node.services.gateway import ChatRequest

SHAPES_KEPT = 256
"""The newest of each user; each under 2 kB."""
USERS_KEPT = 32
"""Those that were answered last."""
USUAL_PART = 0.25
"""Of all decoys: so many have a usual shape, whatever users ask."""
MARKED_PART = 0.5
"""Of the decoys with a shape that one user alone sends: the others have usual lengths instead, or a usual shape."""
TURNS_MAX = 32
TOOLS_MAX = 16
CHARACTERS_MAX = 32_768
"""Of one request: this node's engine has to write as much, and its gateway to pay for the reading."""
EXACT_BELOW = 8
"""Characters; above, a length is known as one of four steps between powers of two."""
CHARACTERS_PER_TOOL = 200
"""What the description of a function takes, roughly."""
HOURS = 24
HOUR_SECONDS = 3600
HOURS_COUNTED_MAX = 100_000
"""Requests; then all counts are halved, so that old habits fade."""
USUAL_LENGTHS = {"system": (28, 96, 320, 768), "user": (24, 56, 128)}
"""Characters of the turns before the last one, each the least of its step. TURNS_MAX of them are not too dear."""
USUAL_LENGTHS_OF_OTHERS = (224, 640)
USUAL_LENGTHS_AT_THE_END = ((20, 48, 112, 256, 768, 3072), (15, 25, 25, 20, 10, 5))
"""Of the last turn, and how often each."""
USUAL_LENGTHS_OF_TEXTS = (48, 256, 1024)
USUAL_LENGTHS_IN_TOKENS = (12, 64, 256)
USUAL_STOPS = ("\n", "\n\n", "###", "User:", "</s>", "<|im_end|>", "Observation:", "```", "END", "Human:")
"""Texts that many users stop at: these say nothing of who uses them. In place of others one of them is drawn."""


@dataclass(frozen=True, slots=True)
class TurnShape:
    """One message without its words."""

    role: str
    characters: int
    """The least of its step."""
    is_named: bool = False
    calls: int = 0
    """Calls of functions that the assistant made in it."""


@dataclass(frozen=True, slots=True)
class RequestShape:
    """A request without its words. Exactly one of `turns`, `text` and `token_ids` says how its prompt is."""

    turns: tuple[TurnShape, ...]
    text: int | None
    """Characters of a text to go on with."""
    token_ids: int
    """Token ids of a prompt that is made of them."""
    tools: int
    max_tokens: int | None
    sampling: SamplingParameters
    is_seeded: bool
    """Whether the user gave the seed."""
    stop: tuple[str, ...]
    """Of USUAL_STOPS; empty texts stand for others."""
    logprobs: int | None
    private: bool


def step(count: int) -> tuple[int, int]:
    """Return the step that a length lies in: the least, and the first beyond it."""
    if count < EXACT_BELOW:
        return count, count + 1
    width = 1 << (count.bit_length() - 3)
    least = count // width * width
    return least, least + width


def shape_of(chat: ChatRequest) -> RequestShape | None:
    """Return the shape of a request; None if no decoy can be like it."""
    prompt = chat.prompt
    tools = -(-len(prompt.tools) // CHARACTERS_PER_TOOL)
    if chat.response_format or not chat.sampling.is_verifiable:
        return None
    if prompt.text_bytes + len(prompt.token_ids) > CHARACTERS_MAX:
        return None
    if len(prompt.turns) > TURNS_MAX or tools > TOOLS_MAX:
        return None
    return RequestShape(
        turns=tuple(_turn_shape(turn) for turn in prompt.turns),
        text=None if prompt.text is None else step(len(prompt.text))[0],
        token_ids=step(len(prompt.token_ids))[0],
        tools=tools,
        max_tokens=chat.max_tokens,
        sampling=chat.sampling,
        is_seeded=chat.seed is not None,
        stop=tuple(text if text in USUAL_STOPS else "" for text in chat.stop),
        logprobs=chat.logprobs,
        private=chat.private,
    )


def _turn_shape(turn: Turn) -> TurnShape:
    return TurnShape(turn.role, step(len(turn.content))[0], bool(turn.name), turn.tool_calls.count('"arguments":'))


def usual_shape(source: random.Random) -> RequestShape:
    """Draw a shape as users of many services have them."""
    earlier = source.choices((0, 1, 2, 4), (60, 20, 12, 8))[0]
    roles = [*["system"] * (source.random() < 0.5), *("user", "assistant") * earlier, "user"]
    turns = _with_usual_lengths([TurnShape(role, 1) for role in roles], source)
    is_text = source.random() < 0.1
    temperature = source.choices((0, 200, 600, 700, 1000), (15, 10, 10, 30, 35))[0]
    return RequestShape(
        turns=() if is_text else turns,
        text=source.choice(USUAL_LENGTHS_OF_TEXTS) if is_text else None,
        token_ids=0,
        tools=0,
        max_tokens=source.choices((None, 128, 256, 512, 1024, 4096), (25, 10, 20, 20, 15, 10))[0],
        sampling=SamplingParameters(temperature, top_p_milli=source.choices((1000, 950, 900), (70, 15, 15))[0]),
        is_seeded=source.random() < 0.05,
        stop=(source.choice(USUAL_STOPS),) if source.random() < 0.1 else (),
        logprobs=source.choices((None, 0, 5), (90, 5, 5))[0],
        private=source.random() < 0.3,
    )


def _with_usual_lengths(turns: Sequence[TurnShape], source: random.Random) -> tuple[TurnShape, ...]:
    """Return turns with lengths as users of many services have them; empty ones stay empty."""
    lengths = [source.choice(USUAL_LENGTHS.get(turn.role, USUAL_LENGTHS_OF_OTHERS)) for turn in turns[:-1]]
    lengths += source.choices(*USUAL_LENGTHS_AT_THE_END)
    return tuple(
        replace(turn, characters=length if turn.characters else 0)
        for turn, length in zip(turns, lengths[-len(turns) :], strict=True)
    )


class ShapeBook:
    """The shapes of the newest requests of this gateway's users, and how many came in which hour of the day."""

    def __init__(self, *, usual_part: float = USUAL_PART) -> None:
        self._usual_part = usual_part
        self._shapes: OrderedDict[str, deque[RequestShape]] = OrderedDict()
        """By user, the one that was answered last at the end."""
        self._hours = [0] * HOURS

    def note(self, chat: ChatRequest, at: int) -> None:
        """Take in a user's request that was answered at the time `at` (UNIX seconds)."""
        shape = shape_of(chat)
        if shape is not None:
            self._shapes.setdefault(chat.user, deque(maxlen=SHAPES_KEPT)).append(shape)
            self._shapes.move_to_end(chat.user)
            if len(self._shapes) > USERS_KEPT:
                self._shapes.popitem(last=False)
        self._hours[_hour_of(at)] += 1
        if sum(self._hours) > HOURS_COUNTED_MAX:
            self._hours = [count // 2 for count in self._hours]

    def draw(self, source: random.Random) -> RequestShape:
        """Return the shape for a decoy: of a user, each as likely, one of its newest requests'; sometimes a usual one,
        and always without any."""
        if not self._shapes or source.random() < self._usual_part:
            return usual_shape(source)
        user = source.choice(list(self._shapes))
        shape = source.choice(self._shapes[user])
        others = {other for name, shapes in self._shapes.items() if name != user for other in shapes}
        return _without_marks(shape, others, source) if others and source.random() >= MARKED_PART else shape

    def share(self, at: int) -> float:
        """Return the part of a day's requests that comes in the hour of `at`; one is counted in each besides."""
        return (self._hours[_hour_of(at)] + 1) / (sum(self._hours) + HOURS)

    def largest_share(self) -> float:
        """Return that of the busiest hour."""
        return (max(self._hours) + 1) / (sum(self._hours) + HOURS)


def _without_marks(shape: RequestShape, others: Collection[RequestShape], source: random.Random) -> RequestShape:
    """Return a shape if one of `others` is the same, with usual lengths if one is the same but for lengths; else a
    usual one. Field by field would not do: values that others send each say much where nobody sends all of them."""
    if shape in others:
        return shape
    habit = _without_lengths(shape)
    if habit not in {_without_lengths(other) for other in others}:
        return usual_shape(source)
    return replace(
        shape,
        turns=_with_usual_lengths(shape.turns, source) if shape.turns else (),
        text=source.choice(USUAL_LENGTHS_OF_TEXTS) if shape.text else shape.text,
        token_ids=source.choice(USUAL_LENGTHS_IN_TOKENS) if shape.token_ids else 0,
    )


def _without_lengths(shape: RequestShape) -> RequestShape:
    """Return a shape of whose lengths is only left whether there is anything."""
    return replace(
        shape,
        turns=tuple(replace(turn, characters=min(turn.characters, 1)) for turn in shape.turns),
        text=shape.text and 1,
        token_ids=min(shape.token_ids, 1),
    )


def _hour_of(at: int) -> int:
    return at // HOUR_SECONDS % HOURS
