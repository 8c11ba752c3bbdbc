"""Private requests leave nothing of prompt and answer with anybody but their payer, nor with the executor for long."""

import json
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
import trio

from netsim import network as simulated
from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.api.openai.bodies import parse_body
from node.api.openai.chat_request import ChatParameters
from node.api.openai.completion_request import CompletionParameters
from node.ports import Engine, EngineFailedError, GenerationChunk, GenerationRequest, SealingError
from node.prompt_sealing import PeerSealing
from node.protocol.canonical import encode
from node.protocol.identifiers import ModelId, PeerId
from node.protocol.messages import Topic
from node.protocol.pricing import tokens_commitment
from node.protocol.sealed_content import SealedContent
from node.services.answer_cache import AnswerCache, CachingAsker
from node.services.frames import Prompt, Turn, prompt_commitment_of
from node.services.gateway import ChatRequest
from node.services.prompt_asks import AskMode, AskState
from node.services.prompt_desk import PromptWish
from tests.unit.services.serving_network import GATEWAY, NODE, ServingNetwork, peer_of, peer_seed_of, serving_network
from tests.unit.services.test_serving import request_to

SECRET = "xyzzy plugh frobnicate"
WISH = PromptWish(AskMode.OPEN, MODEL_ID, Prompt((Turn("user", SECRET),)), max_tokens=24, private=True)


@dataclass
class Seen:
    """Everything that left a node, was stored, or was logged."""

    gossip: list[bytes] = field(default_factory=list)
    logs: list[MutableMapping[str, Any]] = field(default_factory=list)

    def places(self, network: ServingNetwork, wanted: bytes) -> set[str]:
        """Where `wanted` is to be found, the payer's own books apart."""
        found = set()
        if any(wanted in data for data in self.gossip):
            found.add("gossip")
        if any(wanted in str(event).encode() for event in self.logs):
            found.add("logs")
        for number, member in network.members.items():
            if any(wanted in data for data in member.content._blocks.values()):
                found.add("content")
            if number != GATEWAY and wanted in member.store.database.connection.serialize():
                found.add(f"store {number}")
        return found


@contextmanager
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    seen = Seen()
    accept = simulated.SimulatedNetwork.accept

    def noting(node: simulated.SimulatedNetwork, sender: PeerId, topic: Topic, data: bytes) -> bool:
        seen.gossip.append(data)
        return accept(node, sender, topic, data)

    monkeypatch.setattr(simulated.SimulatedNetwork, "accept", noting)
    with structlog.testing.capture_logs() as seen.logs:
        yield seen


async def ask_privately(network: ServingNetwork, *, private: bool) -> str:
    chat = ChatRequest(MODEL_ID, Prompt((Turn("user", SECRET),)), max_tokens=12, private=private)
    async with network.gateway.ask(chat) as answer:
        text = "".join([part.text async for part in answer])
    await trio.sleep(5)  # virtual: announcements and receipts go out
    return text


# --- direct requests --------------------------------------------------------------------------------------------------


async def test_of_a_private_request_nothing_is_announced_published_logged_or_kept(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(monkeypatch) as seen:
        async with serving_network(2) as network:
            text = await ask_privately(network, private=True)
            ids = await SimulatedEngine(NODE, MODEL_ID, "", 0, 0).tokenize(f"user {SECRET}")
            (receipt,) = network.members[GATEWAY].store.receipts(limit=10)
            assert receipt.receipt.is_private
            assert receipt.receipt.prompt_commitment == tokens_commitment(ids), "else this test looks for nothing"
            for word in (*SECRET.split(), text):
                assert not seen.places(network, word.encode())
            assert not seen.places(network, encode(list(ids)))
            assert seen.places(network, receipt.receipt.prompt_commitment) <= {"store 1", "store 2"}
            assert seen.places(network, receipt.receipt.request_id) <= {"store 1", "store 2"}


async def test_of_other_requests_the_receipt_is_published(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above looks for is there to be found."""
    with watching(monkeypatch) as seen:
        async with serving_network(1) as network:
            await ask_privately(network, private=False)
            (receipt,) = network.members[GATEWAY].store.receipts(limit=10)
            assert not receipt.receipt.is_private
            assert "gossip" in seen.places(network, receipt.receipt.prompt_commitment)
            assert "gossip" in seen.places(network, receipt.receipt.request_id)


async def test_who_guesses_a_prompt_does_not_recognise_its_announcement() -> None:
    """The id is announced, so it hides nothing: the salt does, which is not."""
    asked = request_to(1, salt=bytes(range(16)))
    guessed = request_to(1, salt=bytes(16))
    assert prompt_commitment_of(asked) != prompt_commitment_of(guessed)
    assert prompt_commitment_of(asked) == prompt_commitment_of(request_to(2, salt=bytes(range(16))))


async def test_an_engine_is_told_that_a_request_is_private_and_its_complaint_is_not_logged(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Quoting(SimulatedEngine):
        @asynccontextmanager
        async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
            asked.append(request.private)
            if self.seed == 1:
                raise EngineFailedError(f"cannot deal with {SECRET}")
            async with super().generate(request) as chunks:
                yield chunks

    def engine(number: int) -> Engine:
        return Quoting(NODE, MODEL_ID, "honest", 0.0, number)

    with watching(monkeypatch) as seen:
        async with serving_network(2, engine=engine) as network:
            for number in range(8):
                network.gateway._random_bytes = lambda count, number=number: bytes([number]) * count  # type: ignore[misc]
                await ask_privately(network, private=True)
            desk = network.desk
            await desk.until_ended((await desk.hand_in(WISH)).ask_id)
            assert asked
            assert all(asked)
            assert any("failed" in str(event) for event in seen.logs), "else this test looks for nothing"
            assert not seen.places(network, b"xyzzy")


async def test_a_private_answer_is_not_kept_in_the_cache_of_answers(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        cache = AnswerCache(1_000_000)
        asker = CachingAsker(network.gateway, cache)
        for private in (True, False):
            chat = ChatRequest(MODEL_ID, Prompt((Turn("user", SECRET),)), max_tokens=4, seed=1, private=private)
            network.gateway._random_bytes = lambda count, tag=private: bytes([tag]) * count  # type: ignore[misc]
            async with asker.ask(chat) as answer:
                assert [part async for part in answer]
            assert len(cache) == (0 if private else 1)


def test_users_ask_for_privacy_in_a_field_of_their_request() -> None:
    asked = {"model": "tiny", "max_tokens": 1, "quern": {"private": True}}
    chat = parse_body(
        ChatParameters, json.dumps({**asked, "messages": [{"role": "user", "content": "x"}]}).encode(), ()
    )
    completion = parse_body(CompletionParameters, json.dumps({**asked, "prompt": "x"}).encode(), ())
    assert [request.private for request in (*chat.requests(), *completion.requests())] == [True, True]


# --- open prompts -----------------------------------------------------------------------------------------------------


async def test_a_private_open_prompt_is_read_by_nobody_but_those_it_is_sealed_for(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(monkeypatch) as seen:
        async with serving_network(3) as network:
            ended = await network.desk.until_ended((await network.desk.hand_in(WISH)).ask_id)
            assert ended.state is AskState.ANSWERED
            answer = await network.desk.answer(ended)
            await trio.sleep(60)
            assert ended.receipt is not None
            assert ended.receipt.receipt.is_private
            for word in (*SECRET.split(), answer.text):
                assert not seen.places(network, word.encode())
            for ids in (answer.prompt_ids, answer.token_ids):
                assert not seen.places(network, encode(list(ids)))
            assert network.paid_by_gateway() == ended.price > 0


async def test_a_public_open_prompt_is_there_for_all_to_read(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above looks for is there to be found."""
    with watching(monkeypatch) as seen:
        async with serving_network(1) as network:
            wish = PromptWish(AskMode.OPEN, MODEL_ID, WISH.prompt, max_tokens=24)
            ended = await network.desk.until_ended((await network.desk.hand_in(wish)).ask_id)
            answer = await network.desk.answer(ended)
            assert seen.places(network, b"xyzzy plugh") == {"content"}
            assert "content" in seen.places(network, encode(list(answer.prompt_ids)))


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_what_is_sealed_for_some_is_opened_by_each_of_them_and_by_nobody_else() -> None:
    sealing = PeerSealing(peer_seed_of(9))
    sealed = sealing.seal_for_peers(b"secret", MODEL_ID, [peer_of(1), peer_of(2)])
    for number in (1, 2):
        assert PeerSealing(peer_seed_of(number)).open(sealed, MODEL_ID) == b"secret"
    for stranger in (PeerSealing(peer_seed_of(3)), sealing):
        with pytest.raises(SealingError, match="not sealed for this node"):
            stranger.open(sealed, MODEL_ID)
    reply = PeerSealing(peer_seed_of(1)).seal_for_key(b"answer", MODEL_ID, sealing.public_key)
    assert sealing.open(reply, MODEL_ID) == b"answer"


def test_sealing_the_same_twice_gives_nothing_in_common() -> None:
    one, other = (PeerSealing(peer_seed_of(9)).seal_for_peers(b"secret", MODEL_ID, [peer_of(1)]) for _ in range(2))
    assert one.ciphertext != other.ciphertext
    assert one.key_id != other.key_id
    assert one.wrapped != other.wrapped


@pytest.mark.parametrize("part", ["ciphertext", "key_id", "wrapped"])
def test_no_changed_bit_of_sealed_content_goes_unnoticed(part: str) -> None:
    reader = PeerSealing(peer_seed_of(1))
    sealed = reader.seal_for_peers(b"secret", MODEL_ID, [peer_of(1)])
    changed = SealedContent(
        _flipped(sealed.key_id) if part == "key_id" else sealed.key_id,
        (_flipped(sealed.wrapped[0]),) if part == "wrapped" else sealed.wrapped,
        _flipped(sealed.ciphertext) if part == "ciphertext" else sealed.ciphertext,
    )
    with pytest.raises(SealingError):
        reader.open(changed, MODEL_ID)
    with pytest.raises(SealingError):
        reader.open(sealed, ModelId("another"))


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_nothing_is_sealed_for_what_is_no_key() -> None:
    sealing = PeerSealing(peer_seed_of(9))
    with pytest.raises(SealingError):
        sealing.seal_for_peers(b"secret", MODEL_ID, [PeerId("peer-001")])
    with pytest.raises(SealingError):
        sealing.seal_for_key(b"secret", MODEL_ID, bytes(32))
    with pytest.raises(ValueError, match="wrapped"):
        SealedContent(bytes(32), (), b"")
