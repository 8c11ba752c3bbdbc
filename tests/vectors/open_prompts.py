"""Vectors of open prompts and prompts on chain: `python -m tests.vectors.open_prompts` writes open_prompts.json anew.

A changed line in open_prompts.json is a changed protocol: nodes of both versions would disagree on whose turn it is.
"""

import json
from pathlib import Path

from node.protocol.chain_prompts import answers_from, substitutes
from node.protocol.chain_state import ChainState
from node.protocol.codec import to_bytes
from node.protocol.events import ChainEvent, ModelRecorded, PromptSubmitted
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, NodeId, RequestId, TokenAmount
from node.protocol.messages import seal
from node.protocol.open_prompts import OpenPrompt, Posted, decided_from, default_turn_seconds, draw_order, turn_of
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot
from node.protocol.signatures import sign
from tests.builders import NODE, SOME_CID, TINY, account, group_set, key_of, model, peer, registered

PATH = Path(__file__).with_name("open_prompts.json")
REQUEST_ID = RequestId(bytes(range(32)))
EPOCH = EpochNumber(3)
POSTED_AT = 1_000_000
MEMBERS = (1, 2, 3, 4, 5)


def group() -> EpochGroup:
    """Five members, the first with two nodes."""
    nodes = {number: (MLNodeSnapshot(NODE, TINY, 1, number * 1000, (True, False)),) for number in MEMBERS}
    nodes[1] = (*nodes[1], MLNodeSnapshot(NodeId("node-2"), TINY, 1, 9000, (True, False)))
    members = [GroupMember(account(number), peer(number), number, nodes[number]) for number in MEMBERS]
    return EpochGroup(EPOCH, tuple(sorted(members, key=lambda member: member.participant.lower())), (model(),))


def prompt(*, reply_key: bytes = b"") -> OpenPrompt:
    """An open prompt for the first three of the order."""
    order = draw_order(REQUEST_ID, group(), TINY)
    return OpenPrompt(
        REQUEST_ID, EPOCH, TINY, SOME_CID, 100, TokenAmount(10**20), order[:3], default_turn_seconds(100), reply_key
    )


def state() -> ChainState:
    """Five members with the model, and a prompt on chain that the first was drawn for."""
    found = ChainState()
    submitted = PromptSubmitted(
        0, account(9), TINY, SOME_CID, SOME_CID, 100, TokenAmount(100), account(1), BlockNumber(60)
    )
    bodies = (
        ModelRecorded(model()),
        *(body for number in MEMBERS for body in registered(number)),
        group_set(EPOCH, dict.fromkeys(MEMBERS, 1)),
        submitted,
    )
    for body in bodies:
        found.apply(ChainEvent(BlockNumber(10), Hash32(bytes(32)), 0, body))
    return found


def compute() -> dict[str, object]:
    """Return all vectors, as they stand in open_prompts.json."""
    posted = Posted(account(9), POSTED_AT, prompt())
    turns = [turn for turn in (turn_of(posted, executor) for executor in posted.prompt.drawn) if turn is not None]
    _, message = seal("1-00000000", account(9), POSTED_AT, prompt(), lambda digest: sign(key_of(9), digest))
    chain = state()
    return {
        "requestId": REQUEST_ID.hex(),
        "order": list(draw_order(REQUEST_ID, group(), TINY)),
        "promptBytes": to_bytes(prompt()).hex(),
        "message": message.hex(),
        "turns": [{"begin": turn.begin, "end": turn.end, "decidedFrom": decided_from(turn)} for turn in turns],
        "turnSeconds": {str(tokens): default_turn_seconds(tokens) for tokens in (1, 100, 512, 100_000)},
        "onChain": {
            "submittedAt": 10,
            "deadline": 60,
            "substitutes": list(substitutes(0, chain.prompts[0], EPOCH, chain)),
            "from": {
                account(number): answers_from(0, chain.prompts[0], account(number), EPOCH, chain)
                for number in (*MEMBERS, 9)
            },
        },
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
