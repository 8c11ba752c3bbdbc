"""Executors that lie, stall or talk nonsense: the user is served by another, nothing is paid for nothing, and what they
did is written down.
"""

from dataclasses import replace

import pytest
import trio

from netsim.scenario import MODEL_ID
from node.ports import CallFailedError
from node.protocol.claims import NOT_ASKED, claims_commitment, claims_of
from node.protocol.identifiers import Hash32, ModelId, TokenAmount
from node.protocol.records import Voucher
from node.protocol.sampling import TokenAlternative, TokenLogprobs
from node.protocol.seeds import make_share
from node.services.faults import FRAME_BYTES_KEPT_MAX, Fault, FaultBook
from node.services.frames import Closing, SignedVoucherFrame, Tokens, closing_bytes
from node.services.gateway import GatewayError
from node.services.speeds import PEERS_MIN
from node.services.timing import position
from node.services.unreceived import UnreceivedBook
from tests.builders import account
from tests.unit.services.scripted import (
    CHAT,
    Part,
    Script,
    ask,
    evidence,
    first_drawn,
    honest_tokens,
    ids_of,
    install,
)
from tests.unit.services.serving_network import GATEWAY, UNIT, ServingNetwork, serving_network

FORGED = SignedVoucherFrame(Voucher(Hash32(bytes(32)), TokenAmount(10**20), Hash32(bytes(32))), bytes(65))
LOGPROBS = TokenLogprobs(TokenAlternative(1, "x", -1), ())
OTHER_LOGPROBS = TokenLogprobs(TokenAlternative(1, "x", -2), ())


async def garbage(part: Part) -> None:
    await part.open()
    await part.give(3)
    await part.call.send(b"\xc1 no frame")
    await trio.sleep_forever()


async def huge_frame(part: Part) -> None:
    await part.open()
    await part.say(Tokens((1,), "x" * 200_000, ""))
    await trio.sleep_forever()


async def no_opening(part: Part) -> None:
    await part.give(3)


async def second_opening(part: Part) -> None:
    await part.open()
    await part.give(3)
    await part.open()
    await trio.sleep_forever()


async def inflated_prompt(part: Part) -> None:
    await part.open(prompt_ids=tuple(range(5000)))
    await trio.sleep_forever()


async def pays_in_advance(part: Part) -> None:
    await part.open(unpaid_tokens_max=0)
    await trio.sleep_forever()


async def forged_voucher(part: Part) -> None:
    await part.open(newest_voucher=FORGED)
    await trio.sleep_forever()


async def another_seed(part: Part) -> None:
    """The opening of another request, said again."""
    chain = part.member.chain
    other = make_share(bytes(32), part.request.request_id, part.request.payer, chain.account, chain.sign)
    await part.open(seed_share=other)
    await trio.sleep_forever()


async def too_many(part: Part) -> None:
    await part.open()
    await part.say(Tokens(tuple(range(part.request.max_tokens + 1)), "x", ""))
    await trio.sleep_forever()


async def unknown_token(part: Part) -> None:
    await part.open()
    await part.say(Tokens((2**40,), "x", ""))
    await trio.sleep_forever()


async def too_much_text(part: Part) -> None:
    await part.open()
    await part.say(Tokens((1,), "x" * 2000, ""))
    await trio.sleep_forever()


async def unasked_logprobs(part: Part) -> None:
    await part.open()
    await part.say(Tokens((1,), "x", "", (LOGPROBS,)))
    await trio.sleep_forever()


async def talks_without_tokens(part: Part) -> None:
    await part.open()
    await part.give(1)
    while True:
        await part.say(Tokens((), "", ""))


async def looks_fast(part: Part) -> None:
    """An empty piece at once, to win against a hedge and to be measured as fast."""
    await part.open()
    await part.say(Tokens((), "", ""))
    await trio.sleep_forever()


async def short_length(part: Part) -> None:
    await part.open()
    await part.give(3)
    await part.give(1, begin=3, finish_reason="length")
    await trio.sleep_forever()


async def stops_at_once(part: Part) -> None:
    await part.open()
    await part.say(Tokens((), "", "stop"))
    await part.call.send(closing_bytes(Closing(part.receipt(0))))


async def other_reason(part: Part) -> None:
    await part.open()
    await part.give(3, finish_reason="abort")
    await trio.sleep_forever()


async def receipt_before_the_end(part: Part) -> None:
    await part.open()
    await part.give(3)
    await part.call.send(closing_bytes(Closing(part.receipt(3))))
    await trio.sleep_forever()


async def just_ends(part: Part) -> None:
    await part.open()
    await part.give(3)


async def stalls(part: Part) -> None:
    await part.open()
    await part.give(3)
    await trio.sleep_forever()


async def trickles(part: Part) -> None:
    await part.open()
    for place in range(50):
        await part.give(1, begin=place)
        await trio.sleep(25)


async def refuses(part: Part) -> None:
    raise CallFailedError("bad-request", "the request is too old, or our clocks differ")


async def has_another_clock(part: Part) -> None:
    raise CallFailedError("stale", "the request's time is -900 s from this executor's clock")


HOSTILE: list[tuple[Script, Fault]] = [
    (garbage, Fault.GARBAGE),
    (huge_frame, Fault.GARBAGE),
    (no_opening, Fault.OUT_OF_TURN),
    (second_opening, Fault.OUT_OF_TURN),
    (inflated_prompt, Fault.PROMPT),
    (pays_in_advance, Fault.PROMPT),
    (forged_voucher, Fault.VOUCHER),
    (too_many, Fault.TOO_MANY),
    (unknown_token, Fault.TOKENS),
    (too_much_text, Fault.TOKENS),
    (unasked_logprobs, Fault.TOKENS),
    (talks_without_tokens, Fault.TOKENS),
    (looks_fast, Fault.TOKENS),
    (short_length, Fault.EARLY_END),
    (stops_at_once, Fault.EARLY_END),
    (other_reason, Fault.EARLY_END),
    (receipt_before_the_end, Fault.EARLY_END),
    (just_ends, Fault.EARLY_END),
    (stalls, Fault.SILENT),
    (trickles, Fault.SLOW),
    (refuses, Fault.REFUSED),
    (has_another_clock, Fault.FAILED),
]


async def stalls_before_it_begins(part: Part) -> None:
    await trio.sleep_forever()


async def ends_before_it_begins(part: Part) -> None:
    raise CallFailedError("lost", "the line broke")


@pytest.mark.parametrize("script", [ends_before_it_begins, stalls_before_it_begins])
async def test_who_never_said_how_much_it_gives_unpaid_may_book_all_that_was_asked_for(
    autojump_clock: object, script: Script
) -> None:
    """A line that breaks may keep back an opening and all that was given after it."""
    async with serving_network(2) as network:
        broken = first_drawn(network)
        install(network, broken, script)
        await ask(network, replace(CHAT, max_tokens=400))
        gateway = network.members[GATEWAY]
        found = UnreceivedBook(gateway.store).booked_in(position(gateway.chain).epoch)
        assert [one.tokens_max for one in found[account(broken)]] == [400]


@pytest.mark.parametrize(("script", "fault"), HOSTILE, ids=lambda value: getattr(value, "__name__", None))
async def test_the_user_is_served_and_the_liar_is_not_paid_and_written_down(
    autojump_clock: object, script: Script, fault: Fault
) -> None:
    async with serving_network(2) as network:
        hostile = first_drawn(network)
        honest = 3 - hostile
        install(network, hostile, script)
        answer, parts = await ask(network)
        assert ids_of(parts) == await honest_tokens()
        assert "".join(part.text for part in parts) == "".join(f" w{token}" for token in ids_of(parts))
        assert answer.summary.finish_reason == "length"
        assert answer.summary.output_tokens == 50
        (kept,) = network.members[honest].store.receipts(limit=9)
        paid_to_hostile = answer.summary.price - kept.receipt.price
        # The prompt, and what it gave: never more than that.
        assert paid_to_hostile <= UNIT * (answer.summary.prompt_tokens + 50)
        if script in (no_opening, inflated_prompt, pays_in_advance, forged_voucher, refuses, has_another_clock):
            assert paid_to_hostile == 0
        (found,) = evidence(network)
        assert (found.participant, found.code, found.model_id) == (account(hostile), fault.value, MODEL_ID)
        assert found.request_id == answer.summary.request_id
        assert len(found.frame) <= FRAME_BYTES_KEPT_MAX


async def test_a_share_of_another_request_is_noticed(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        hostile = first_drawn(network)
        install(network, hostile, another_seed)
        answer, parts = await ask(network, replace(CHAT, seed=None))
        assert len(ids_of(parts)) == 50
        assert answer.summary.executors == (account(3 - hostile),)
        (found,) = evidence(network)
        assert found.code == Fault.SEED.value


async def test_an_answer_whose_receipt_is_of_another_model_is_complete_and_the_receipt_is_kept_as_evidence(
    autojump_clock: object,
) -> None:
    async def other_model(part: Part) -> None:
        await part.open()
        await part.give(50, finish_reason="length")
        await part.call.send(closing_bytes(Closing(part.receipt(50, model_id=ModelId("cheaper")))))
        await trio.sleep_forever()

    async with serving_network(2) as network:
        hostile = first_drawn(network)
        install(network, hostile, other_model)
        answer, parts = await ask(network)
        assert ids_of(parts) == await honest_tokens()
        assert answer.summary.finish_reason == "length"
        assert answer.summary.executors == (account(hostile),)
        assert network.members[GATEWAY].store.receipts(limit=9) == ()
        (found,) = evidence(network)
        assert found.code == Fault.RECEIPT.value
        assert found.receipt is not None
        assert found.receipt.receipt.model_id == "cheaper"


@pytest.mark.parametrize(
    ("asked", "committed", "is_right"),
    [
        (0, claims_commitment(claims_of((LOGPROBS,))), True),
        (0, claims_commitment(claims_of((OTHER_LOGPROBS,))), False),
        (0, NOT_ASKED, False),
        (None, claims_commitment(()), False),
    ],
)
async def test_a_receipt_binds_its_executor_to_the_logprobs_that_the_user_was_told(
    autojump_clock: object, asked: int | None, committed: Hash32, is_right: bool
) -> None:
    async def tells_one_thing_and_signs_another(part: Part) -> None:
        await part.open()
        part.right_ids = (LOGPROBS.chosen.token_id,)
        await part.say(Tokens(part.right_ids, "x", "stop", () if asked is None else (LOGPROBS,)))
        await part.call.send(closing_bytes(Closing(part.receipt(1, claims_commitment=committed))))
        if not is_right:
            await trio.sleep_forever()

    async with serving_network(1) as network:
        install(network, 1, tells_one_thing_and_signs_another)
        await ask(network, replace(CHAT, logprobs=asked))
        kept = network.members[GATEWAY].store.receipts(limit=9)
        assert [signed.receipt.claims_commitment for signed in kept] == ([committed] if is_right else [])
        assert [found.code for found in evidence(network)] == ([] if is_right else [Fault.RECEIPT.value])


async def test_tokens_after_the_end_are_not_given(autojump_clock: object) -> None:
    async def goes_on(part: Part) -> None:
        await part.open()
        await part.give(3, finish_reason="stop")
        await part.give(3, begin=3)
        await trio.sleep_forever()

    async with serving_network(2) as network:
        install(network, first_drawn(network), goes_on)
        answer, parts = await ask(network)
        assert ids_of(parts) == (await honest_tokens())[:3]
        assert answer.summary.finish_reason == "stop"
        assert [found.code for found in evidence(network)] == [Fault.OUT_OF_TURN.value]


async def test_a_receipt_that_never_comes_holds_nobody_up_for_long(autojump_clock: object) -> None:
    async def keeps_it(part: Part) -> None:
        await part.open()
        await part.give(50, finish_reason="length")
        await trio.sleep_forever()

    async with serving_network(1) as network:
        install(network, 1, keeps_it)
        await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(1))
        began = trio.current_time()
        answer, _ = await ask(network)
        assert answer.summary.output_tokens == 50
        assert trio.current_time() - began < 10


async def test_whoever_was_at_fault_is_asked_last_for_a_while_and_then_again(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        hostile = first_drawn(network)
        install(network, hostile, garbage)
        await ask(network)
        assert first_drawn(network) == 3 - hostile
        restarted = FaultBook(network.members[GATEWAY].store, network.gateway._trade.wall_clock)
        assert restarted.is_faulty(account(hostile))  # over a restart too
        await trio.sleep(70)
        assert first_drawn(network) == hostile


async def test_a_request_that_two_call_bad_is_the_users_fault_and_nobody_elses(autojump_clock: object) -> None:
    async with serving_network(3) as network:
        for number in (1, 2, 3):
            install(network, number, refuses)
        with pytest.raises(GatewayError, match="too old") as caught:
            await ask(network)
        assert caught.value.code == "bad-request"
        assert evidence(network) == []
        assert network.paid_by_gateway() == 0


async def test_what_executors_say_does_not_break_lines_of_logs_and_errors(autojump_clock: object) -> None:
    async def rude(part: Part) -> None:
        raise CallFailedError("engine-failed", "a\nb\x1b[31m" + "x" * 5000)

    async with serving_network(1) as network:
        install(network, 1, rude)
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 1000
        assert evidence(network)[0].detail.isprintable()


async def test_everybody_is_tried_once_and_the_error_says_what_each_did(autojump_clock: object) -> None:
    async with serving_network(3) as network:
        for number in (1, 2, 3):
            install(network, number, garbage)
        with pytest.raises(GatewayError, match="not a frame") as caught:
            await ask(network)
        assert caught.value.code == "failed"
        assert {found.participant for found in evidence(network)} == {account(n) for n in (1, 2, 3)}


def slow_by_measure(network: ServingNetwork) -> None:
    """Have the gateway know what is usual: first tokens within 0.3 s, a token every 20 ms."""
    speeds, now = network.gateway._trade.speeds, trio.current_time()
    for _ in range(PEERS_MIN):
        speeds.add_first(account(77), MODEL_ID, 0.3, now)
    speeds.add_pace(account(77), MODEL_ID, 0.02, now)


async def test_silence_and_slowness_are_noticed_by_what_is_usual(autojump_clock: object) -> None:
    for script, seconds_max in ((stalls, 5.0), (trickles, 5.0)):
        async with serving_network(2) as network:
            hostile = first_drawn(network)
            install(network, hostile, script)
            for number in (1, 2):
                await network.members[GATEWAY].payer.reserve(account(number), TokenAmount(1))
            slow_by_measure(network)
            began = trio.current_time()
            _, parts = await ask(network)
            assert ids_of(parts) == await honest_tokens()
            assert trio.current_time() - began < 1.5 + seconds_max


async def test_evidence_is_bounded_for_each_participant(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        store = network.members[GATEWAY].store
        store.save_evidence(account(1), 1, "garbage", b"first of 1")
        for number in range(100):
            store.save_evidence(account(2), number, "garbage", str(number).encode())
        assert len(store.evidence(limit=1000, participant=account(2))) == 64
        assert store.evidence(limit=1, participant=account(2)) == (b"99",)
        assert store.evidence(limit=1000, participant=account(1)) == (b"first of 1",)
