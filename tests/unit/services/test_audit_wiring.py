"""What a daemon does about audits, put together."""

from types import SimpleNamespace
from typing import Any, cast

from node.audit_wiring import add_auditing, make_receipt_book
from node.services.challenge_book import ChallengeBook
from node.supervisor import Supervisor
from tests.unit.services.serving_network import GATEWAY, Member, serving_network


def wire(member: Member, *, decoys_per_day: float) -> set[str]:
    """Return the names of the services of a gateway."""
    settings: Any = SimpleNamespace(payments=SimpleNamespace(decoys_per_day=decoys_per_day, decoys_cost_per_day_max=1))
    content, supervisor = cast(Any, None), Supervisor()
    keeper = make_receipt_book(member.chain, content, member.store)
    add_auditing(
        settings, member.chain, member.network, content, member.store, member.presence, member.epochs,
        member.gateway, (), keeper, ChallengeBook(member.store), supervisor,
    )  # fmt: skip
    return {status.name for status in supervisor.statuses()}


async def test_what_a_gateway_has_at_hand_of_private_answers_is_forgotten_also_without_decoys(
    autojump_clock: object,
) -> None:
    async with serving_network(1) as network:
        names = wire(network.members[GATEWAY], decoys_per_day=0)
    assert "private answers" in names
    assert "decoys" not in names
