"""An auditing service whose evidence and engines are what a test makes them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.ports import EngineRefusedError
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.audit_tasks import AuditTask
from node.protocol.audit_votes import REJUDGED
from node.protocol.draws import Prefill
from node.protocol.findings import AuditVote
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, NodeId
from node.protocol.pricing import receipt_digest
from node.services import auditing
from node.services.auditing import AuditingService, _Round
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from tests.builders import NODE, SOME_CID, TINY, account
from tests.unit.protocol.audited_group import SEED, band_of, previous
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR
from tests.unit.protocol.test_receipt_books import group_of
from tests.unit.protocol.test_sketches import DIMENSIONS, vector

VOCABULARY = 100
CONTEXT = 512
"""Of the model."""
NO_PROMPT = replace(ANSWER, prompt_ids=())


class Engine:
    """Has the model, and fails in a way that nobody foresaw."""

    vocabulary_size = VOCABULARY

    def __init__(self, node_id: NodeId = NODE, model_id: ModelId | None = TINY) -> None:
        self.node_id, self.model_id = node_id, model_id
        self.asked: list[tuple[int, ...]] = []

    async def prefill(self, token_ids: tuple[int, ...], *_places: object, **_options: object) -> Any:
        self.asked.append(token_ids)
        raise KeyError("nobody foresaw this")


class Documents(dict[str, bytes]):
    """Documents of a store."""

    def put_document(self, name: str, data: bytes) -> None:
        self[name] = data

    put_documents = dict.update

    def document_keys(self, prefix: str) -> tuple[str, ...]:
        return tuple(sorted(name for name in self if name.startswith(prefix)))

    def get_document(self, name: str) -> bytes | None:
        return self.get(name)


class Auditor:
    """An auditing service whose evidence comes from `holders`, by receipt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = Engine()
        self.given = GivenAnswerTables(Database(":memory:"), account(3))
        self.holders: dict[Hash32, AuditEvidence] = {}
        self.asked: list[Hash32] = []
        """Receipts whose evidence was asked for."""
        chain = SimpleNamespace(account=account(3), state=SimpleNamespace(participants={}, results={}))

        async def book(_epoch: EpochNumber, _newest_result: EpochNumber | None) -> None:
            return None

        keeper = SimpleNamespace(given=self.given, serve=lambda _network, _admission: None, book=book)
        epochs = SimpleNamespace(newest_result=lambda: None)
        unused, network = cast(Any, None), SimpleNamespace(serve=lambda *_what, **_how: None)
        self.service = AuditingService(
            cast(Any, chain), cast(Any, network), unused, cast(Any, Documents()), unused, cast(Any, epochs),
            [self.engine], cast(Any, keeper),
        )  # fmt: skip
        monkeypatch.setattr(auditing, "ask_for_evidence", self._ask)
        group = group_of((3, 10, (TINY,)))
        group = replace(group, models=tuple(replace(model, cid=SOME_CID) for model in group.models))
        self.judged_from = 0
        self.round = _Round(
            EpochNumber(5), replace(previous(), group=group), SEED, band_of, lambda _model_id: self.judged_from
        )

    async def _ask(
        self, _network: object, _holders: object, _executor: object, digest: Hash32, *_how: object, **_more: object
    ) -> AuditEvidence:
        self.asked.append(digest)
        return self.holders[digest]

    async def votes_on(self, *evidence: AuditEvidence) -> list[AuditVote]:
        tasks = [AuditTask(EXECUTOR, REJUDGED, receipt_digest(one.signed.receipt), None) for one in evidence]
        self.holders |= {task.digest: one for task, one in zip(tasks, evidence, strict=True)}
        return [await self.service._vote_or_abstain(task, self.round) for task in tasks]


def engine_with(context: int, asked: list[tuple[int, ...]]) -> Callable[..., Awaitable[list[Prefill]]]:
    """What an engine says to whom no token is likely, and which refuses what leaves no room for one of its own."""

    async def prefill(token_ids: tuple[int, ...], first: int, **_options: object) -> list[Prefill]:
        asked.append(token_ids)
        if len(token_ids) >= context:
            raise EngineRefusedError("longer than the context")
        return [Prefill({token: -20.0, 0: -0.001}, 2) for token in token_ids[first:]]

    return prefill


class VectorEngine(Engine):
    """Has the embedding model: the vector of (n, ...) is that of the seed n, with a little noise of its own."""

    dimensions = DIMENSIONS

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        assert priority > 0
        self.asked += [tuple(prompt) for prompt in prompts]
        return [vector(prompt[0], noise=0.001, dimensions=self.dimensions) for prompt in prompts]
