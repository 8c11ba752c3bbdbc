"""What an executor sees of decoys has the distribution of what it sees of users' requests, field by field.

Users here are of one gateway, of several habits. Each field of a request is put into kinds; fields that a new version
adds have to be put into kinds as well. The words apart: these no two requests share; and the decoys that are like
nobody's request.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pytest

from netsim.engine import DrawingEngine, SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import Call, Engine, GenerationChunk, GenerationRequest
from node.protocol.codec import from_bytes
from node.protocol.identifiers import ModelId
from node.protocol.sampling import SamplingParameters, TokenAlternative, TokenLogprobs
from node.services.decoy_writing import DecoyWriter
from node.services.frames import METHOD, InferenceRequest, Payment, Prompt, SignedRequest, Turn, read_request
from node.services.gateway import ChatRequest, GatewayError
from node.services.request_shapes import ShapeBook, step
from tests.unit.services.serving_network import NODE, ServingNetwork, serving_network

REQUESTS = 300
DIFFERENCE_MAX = 0.12
"""Half the sum of differences between two tables of parts, at most 1. By luck some 0.03 to 0.08 for 300 of each."""
TOOLS = (
    '[{"type":"function","function":{"name":"look_up","description":"Look a word up in the dictionary of old words.",'
    '"parameters":{"type":"object","properties":{"word":{"type":"string"}},"required":["word"]}}}]'
)
CALL = '[{"id":"call_1","type":"function","function":{"name":"look_up","arguments":"{\\"word\\":\\"quern\\"}"}}]'


class TellingEngine(SimulatedEngine):
    """Tells log-probabilities where they are asked for."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        async for chunk in SimulatedEngine._tokens(self, request):
            told = tuple(TokenLogprobs(TokenAlternative(token, "w", -1), ()) for token in chunk.token_ids)
            yield chunk if request.logprobs is None else replace(chunk, logprobs=told)


class WordyEngine(DrawingEngine):
    """Writes quickly: what decoys say is not looked at here."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        source = random.Random(request.seed)
        token_ids = tuple(source.randrange(3072) for _ in range(request.max_tokens))
        said = " ".join(f"{token:05d}" for token in token_ids)
        yield GenerationChunk(token_ids, said, "length")


@dataclass
class Seen:
    """What an executor saw of one request."""

    signed: SignedRequest
    payments: list[tuple[bool, bool]]
    """Of each frame that followed: whether it had a voucher, and a receipt's signature."""

    @property
    def request(self) -> InferenceRequest:
        return self.signed.request


class Tap:
    """A call whose payments are written down."""

    def __init__(self, call: Call, seen: Seen) -> None:
        self._call = call
        self._seen = seen

    def __getattr__(self, name: str) -> object:
        return getattr(self._call, name)

    async def receive(self) -> bytes:
        data = await self._call.receive()
        payment = from_bytes(Payment, data)
        self._seen.payments.append((payment.voucher is not None, bool(payment.receipt_signature)))
        return data


def words(count: int, source: random.Random) -> str:
    return " ".join(source.choice(("mill", "stone", "corn", "water", "wheel")) for _ in range(count))


def of_users(source: random.Random) -> ChatRequest:
    """A request of one of this gateway's users."""
    habit = source.random()
    private, tokens = source.random() < 0.4, source.choice((None, 8, 16, 24))
    asked = Turn("user", words(source.choice((3, 9, 20)), source))
    chat = ChatRequest(MODEL_ID, Prompt((asked,)), max_tokens=tokens or 12, private=private)
    if habit < 0.2:
        return replace(chat, prompt=Prompt(text=words(12, source)), logprobs=source.choice((0, 5)))
    if habit < 0.3:
        return replace(chat, prompt=Prompt(token_ids=tuple(range(source.choice((5, 40))))), seed=7)
    if habit < 0.4:
        called = (asked, Turn("assistant", "", tool_calls=CALL), Turn("tool", words(4, source), tool_call_id="call_1"))
        return replace(chat, prompt=Prompt(called, tools=TOOLS), sampling=SamplingParameters(temperature_milli=0))
    if habit < 0.7:
        told = Turn("system", words(6, source))
        talk = (told, asked, Turn("assistant", words(10, source)), Turn("user", words(4, source), name="alice"))
        return replace(chat, prompt=Prompt(talk), stop=source.choice((("\n\n",), ("wheel", "###"))))
    return replace(chat, sampling=SamplingParameters(temperature_milli=700, top_p_milli=source.choice((900, 1000))))


def of_prompts(request: InferenceRequest) -> Hashable:
    prompt = request.prompt
    turns = tuple(
        (
            turn.role,
            len(turn.content).bit_length(),
            bool(turn.name),
            bool(turn.tool_call_id),
            bool(turn.tool_calls),
        )
        for turn in prompt.turns
    )
    text = None if prompt.text is None else len(prompt.text).bit_length()
    return turns, bool(prompt.tools), text, len(prompt.token_ids).bit_length()


def lengths(seen: Sequence[Seen]) -> list[Hashable]:
    """The steps that the lengths of all texts lie in."""
    prompts = [one.request.prompt for one in seen]
    texts = [text for prompt in prompts for text in (prompt.text or "", *(turn.content for turn in prompt.turns))]
    return [step(len(text)) for text in texts]


def just(name: str) -> Callable[[InferenceRequest], Hashable]:
    def value(request: InferenceRequest) -> Hashable:
        found: Hashable = getattr(request, name)
        return found

    return value


def length(name: str) -> Callable[[InferenceRequest], Hashable]:
    return lambda request: len(getattr(request, name))


KINDS: dict[str, Callable[[InferenceRequest], Hashable]] = {
    "request_id": length("request_id"),
    "model_id": just("model_id"),
    "payer": just("payer"),
    "executor": just("executor"),
    "at": lambda request: request.at > 0,
    "epoch": lambda request: request.epoch >= 0,
    "prompt": of_prompts,
    "prefix": just("prefix"),
    "max_tokens": just("max_tokens"),
    "sampling": just("sampling"),
    "seed": lambda request: request.seed is not None,
    "stop": lambda request: len(request.stop),
    "logprobs": just("logprobs"),
    "response_format": just("response_format"),
    "seed_commitment": lambda request: request.seed_commitment is not None,
    "seed_share": lambda request: request.seed_share is not None,
    "free": just("free"),
    "private": just("private"),
    "salt": length("salt"),
}
"""What is compared of each field."""


def difference(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Return how far two samples of kinds lie apart: 0 for the same parts, 1 for no kind in common."""
    first, second = Counter(one), Counter(other)
    return sum(abs(first[kind] / len(one) - second[kind] / len(other)) for kind in first | second) / 2


def unlike(users: Sequence[Seen], decoys: Sequence[Seen]) -> dict[str, float]:
    """Return the fields by which decoys can be told from users' requests, with how far."""
    found = {
        name: difference([kind(seen.request) for seen in users], [kind(seen.request) for seen in decoys])
        for name, kind in KINDS.items()
    }
    found["lengths"] = difference(lengths(users), lengths(decoys))
    found["payments"] = difference([tuple(seen.payments) for seen in users], [tuple(seen.payments) for seen in decoys])
    return {name: far for name, far in found.items() if far > DIFFERENCE_MAX}


def watch(network: ServingNetwork, number: int) -> list[Seen]:
    """Have an executor write down what it sees."""
    served, seen = network.members[number].network._served[METHOD], list[Seen]()
    handler = served.handler

    async def watching(call: Call) -> None:
        one = Seen(read_request(call.payload), [])
        seen.append(one)
        await handler(cast(Call, Tap(call, one)))

    served.handler = watching
    return seen


async def test_no_field_of_a_request_or_a_payment_tells_a_decoy(autojump_clock: object) -> None:
    source, shapes = random.Random(5), ShapeBook(usual_part=0.0)
    writer = DecoyWriter(WordyEngine(NODE, MODEL_ID, "honest", 0.0, 9), source)

    def engine(number: int) -> Engine:
        return TellingEngine(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        gateway = network.gateway
        gateway._random_bytes = source.randbytes
        gateway.on_answered = lambda chat: shapes.note(chat, 0)
        seen = watch(network, 1)
        for _ in range(REQUESTS):
            async with gateway.ask(of_users(source)) as answer:
                async for _ in answer:
                    pass
        with pytest.raises(GatewayError):
            async with gateway.ask(ChatRequest(ModelId("unknown"), Prompt(text="x"), logprobs=17)):
                pass
        async with gateway.ask(ChatRequest(MODEL_ID, Prompt(text="x"), logprobs=17)):
            pass
        noted = list(shapes._shapes[""])
        users, count = seen[:], len(seen)
        for _ in range(REQUESTS):
            wanted = await writer.write(shapes.draw(source), MODEL_ID)
            async with gateway.ask_decoy(wanted) as answer:
                async for _ in answer:
                    pass
        decoys = seen[count:]
    assert set(KINDS) == {field.name for field in dataclasses.fields(InferenceRequest)}
    assert len(users) == len(decoys) == REQUESTS
    assert unlike(users, decoys) == {}
    assert all(shape.logprobs != 17 for shape in noted), "what was not answered is no pattern"
    assert list(shapes._shapes[""]) == noted, "a decoy is no pattern for others"
    written = {seen.request.prompt for seen in decoys}
    assert len(written) == REQUESTS
    assert written.isdisjoint(seen.request.prompt for seen in users)
    told = [replace(seen, signed=replace(seen.signed, request=as_before(seen.request, source))) for seen in decoys]
    assert set(unlike(users, told)) >= {"prompt", "private", "max_tokens", "stop", "logprobs"}


def as_before(request: InferenceRequest, source: random.Random) -> InferenceRequest:
    """The decoy as decoys once were: one turn, never private."""
    prompt = Prompt((Turn("user", words(source.randint(8, 96), source)),))
    sampling = SamplingParameters(temperature_milli=source.choice((700, 800, 1000)))
    return replace(
        request, prompt=prompt, sampling=sampling, private=False, max_tokens=source.randint(64, 256), stop=(),
        logprobs=None, seed=None,
    )  # fmt: skip
