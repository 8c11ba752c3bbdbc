"""`quern doctor` says whether the operator's Kubo is reachable, and what to do if not."""

from node.doctor.findings import Severity
from node.doctor.ipfs import check_kubo
from tests.integration.sources.kubo_stand_in import KuboStandIn, kubo_stand_in
from tests.integration.sources.servers import Reply, server_of


async def test_a_kubo_that_answers_is_named_with_its_version() -> None:
    async with kubo_stand_in(KuboStandIn()) as address:
        (finding,) = await check_kubo(address)
    assert finding.severity is Severity.OK
    assert "0.32.1" in finding.message


async def test_a_kubo_that_does_not_answer_is_a_warning_that_says_what_to_do() -> None:
    async with server_of(lambda _request: Reply(404)) as port:
        for address in (f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/1"):
            (finding,) = await check_kubo(address)
            assert finding.severity is Severity.WARNING
            assert address in finding.message
            assert "kubo_api" in finding.remedy


async def test_without_a_kubo_nothing_is_checked() -> None:
    assert await check_kubo("") == []
