"""Proof of Compute, the prover: computes nonces with the loaded model and commits the batch on chain."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import structlog
import trio

from node.ports import ActionStatus, Chain, Content, Engine, EngineRefusedError
from node.protocol.actions import CommitPoc
from node.protocol.canonical import keccak_digest
from node.protocol.chain_state import FIRST_EPOCH
from node.protocol.identifiers import BlockNumber, Cid, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.nonces import BATCH_NONCES_MAX, VECTOR_BYTES, VectorsRoot, nonce_prompt, quantise
from node.protocol.records import PocCommit
from node.protocol.stages import Stage
from node.services.keeping import store_proof
from node.services.poc_slots import PocSlots
from node.services.reading_ahead import QUESTION_PROMPTS, Prompts, Rows, read_ahead
from node.services.timing import cancel_at, epochs_at, until_head, window

log = structlog.get_logger(__name__)

REFUSED_SECONDS = 5.0
"""Between two questions to an engine that refuses: what stands before a remote one may refuse for a moment, and an
epoch's reward is not given up for that."""
COMMIT_BLOCKS = 2
"""Blocks before the end of GENERATE at which mining stops."""
LATE_COMMIT_BLOCKS = 2
"""Who mines and has no nonce by then goes on into EXCHANGE, in which the chain takes batches too, until so many blocks
before its end: a few nonces late earn more than none."""
SELECTION_PATIENCE_SECONDS = 10.0
"""How long to wait for the result that tells whether this node is to mine at all."""
SELECTION_PART_MAX = 4
"""And no longer than this part of GENERATE: a quarter. Stages may last seconds."""


SYNC_SECONDS = 30.0
"""So much work a loss of power costs at most; the end of the daemon alone costs none."""
HASHED_AT_ONCE = 1024
"""Vectors between two looks at what else there is to do: some 3 ms."""


class KeptNonces(Protocol):
    """Keeps one ML node's nonces through restarts until they are committed. Never raises."""

    async def batch(self) -> Hash32 | None:
        """Return the batch of which a run before a restart kept vectors, if any."""

    async def begin(self, batch: Hash32, vectors_max: int) -> bytes:
        """Return the vectors kept of `batch`, at most so many, and go on after them; those of any other are dropped."""

    def append(self, vectors: list[bytes]) -> None:
        """Keep the next vectors."""

    async def sync(self) -> None:
        """Have what was kept survive the loss of power."""

    async def drop(self) -> None:
        """Forget them."""


class MiningState(Enum):
    """How far a node is with an epoch's batch."""

    WAITING = "waiting"
    """For the next epoch's GENERATE."""
    MINING = "mining"
    COMMITTING = "committing"
    COMMITTED = "committed"
    REFUSED = "refused"
    """The contract did not take the batch."""
    NOTHING = "nothing"
    """No model that counts was loaded, or no nonce was computed in time."""
    SERVING = "serving"
    """It was drawn to keep serving (POC_SLOT), and keeps its weight."""


@dataclass(slots=True)
class MiningProgress:
    """How far a node is; what is shown to its operator."""

    epoch: EpochNumber = FIRST_EPOCH
    state: MiningState = MiningState.WAITING
    nonces: int = 0


@dataclass(slots=True)
class Batch:
    """Nonces as they are computed: 126 bytes each, and a root of a few hashes, however many there are."""

    count: int = 0
    vectors: bytearray = field(default_factory=bytearray)
    root: VectorsRoot = field(default_factory=VectorsRoot)

    def add(self, vector: bytes) -> None:
        """Append the next nonce's vector."""
        self.vectors += vector
        self.root.add(vector)
        self.count += 1


class MiningService:
    """Mines with one engine, every epoch."""

    def __init__(
        self,
        chain: Chain,
        content: Content,
        engine: Engine,
        slots: PocSlots,
        *,
        nonces_max: int,
        kept: KeptNonces | None = None,
    ) -> None:
        """Without `kept`, a restart begins an epoch's nonces again with the first one."""
        self._chain = chain
        self._content = content
        self._engine = engine
        self._slots = slots
        self._nonces_max = min(nonces_max, BATCH_NONCES_MAX)
        self._kept = kept
        self.progress = MiningProgress()

    @property
    def node_id(self) -> NodeId:
        """The ML node this mines with."""
        return self._engine.node_id

    async def run(self) -> None:
        """Mine in every epoch's GENERATE stage for which this node is registered with the loaded model; and in EXCHANGE
        commit what a run before a restart mined.
        """
        async for epoch in epochs_at(self._chain, Stage.GENERATE, Stage.EXCHANGE):
            _, end = window(self._chain, epoch, Stage.GENERATE, Stage.GENERATE)
            starts_late = self._chain.head.number >= end
            self.progress = MiningProgress(epoch, MiningState.NOTHING)
            model_id = await self._model_in_time(epoch)
            if model_id is None:
                log.info("no mining this epoch: no model is loaded that this node is registered for", epoch=epoch)
            elif self._chain.state.get_poc_batches_for_node(epoch, self._chain.account, self._engine.node_id):
                # A run before a restart got so far; a second batch would be refused.
                self.progress.state = MiningState.COMMITTED
                await self._drop_kept()
            elif await self._must_mine(epoch, model_id):
                self.progress.state = MiningState.MINING
                await self._mine(epoch, model_id, starts_late=starts_late)

    async def _model_in_time(self, epoch: EpochNumber) -> ModelId | None:
        """Return the model to mine with, if there is one by the end: who is ready late mines in what is left.

        When nothing more may be mined it is the model of the nonces that a run before a restart kept: to commit them
        needs no engine, and one that has to load its model first would be ready too late.
        """
        last, _ = self._last_blocks(epoch)
        async for head in self._chain.heads():
            if head.number >= last and (kept := await self._kept_model(epoch)) is not None:
                return kept
            model_id = self._engine.model_id
            if model_id is not None and model_id in self._registered_models():
                return model_id
            if head.number >= last:
                break
        return None

    async def _kept_model(self, epoch: EpochNumber) -> ModelId | None:
        """Return the model of this epoch's nonces that are kept, if this node is registered for it."""
        kept = None if self._kept is None else await self._kept.batch()
        if kept is None:
            return None
        seed = await self._seed(epoch)
        return next((name for name in self._registered_models() if self._batch_name(epoch, seed, name) == kept), None)

    def _last_blocks(self, epoch: EpochNumber) -> tuple[BlockNumber, BlockNumber]:
        """Return the block at which mining stops, and the one at which it stops even without a nonce."""
        begin, end = window(self._chain, epoch, Stage.GENERATE, Stage.GENERATE)
        _, closing = window(self._chain, epoch, Stage.EXCHANGE, Stage.EXCHANGE)
        last = max(begin, end - COMMIT_BLOCKS)
        return BlockNumber(last), BlockNumber(max(last, closing - LATE_COMMIT_BLOCKS))

    async def _must_mine(self, epoch: EpochNumber, model_id: ModelId) -> bool:
        """Whether there is a batch to mine, noting why not; if that cannot be told in time there is.

        A batch too many costs nothing but the work.
        """
        selected, judged, in_time = False, True, True
        begin, end = window(self._chain, epoch, Stage.GENERATE, Stage.GENERATE)
        is_known = False
        with trio.move_on_after(SELECTION_PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                patience_end = self._chain.head.number + max(1, (end - begin) // SELECTION_PART_MAX)
                nursery.start_soon(cancel_at, self._chain, patience_end, nursery.cancel_scope)
                selected = await self._slots.is_selected(epoch, self._chain.account, self._engine.node_id)
                judged = model_id in await self._slots.judged_models(epoch)
                in_time = await self._slots.is_registered(epoch, self._chain.account, self._engine.node_id)
                is_known = True
                nursery.cancel_scope.cancel()
        if not is_known:
            log.warning("mining, for the result that says who keeps serving is not here yet", epoch=epoch)
        if selected:
            self.progress.state = MiningState.SERVING
            log.info("no mining this epoch: this node was drawn to keep serving", epoch=epoch, node=self.node_id)
        elif not in_time:
            log.info(
                "no mining this epoch: this node was not registered before mining began, so that nobody would judge "
                "its batch or pay for it; it mines in the next epoch",
                epoch=epoch,
                node=self.node_id,
            )
        elif not judged:
            log.warning(
                "no mining this epoch: the model was out of service before mining began, so that nobody would judge "
                "its batch or pay for it; register this node for a model that is active",
                epoch=epoch,
                node=self.node_id,
                model=model_id,
            )
        return judged and in_time and not selected

    async def _mine(self, epoch: EpochNumber, model_id: ModelId, *, starts_late: bool) -> None:
        seed = await self._seed(epoch)
        last, latest = self._last_blocks(epoch)
        batch = await self._begin(epoch, seed, model_id)
        if starts_late and (not batch.count or self._chain.head.number >= latest):
            self.progress.state = MiningState.NOTHING
            log.info("no mining this epoch: it began without this node", epoch=epoch, node=self.node_id)
            return
        await self._compute(batch, seed, model_id, last, latest)
        if not batch.count:
            self.progress.state = MiningState.NOTHING
            log.warning("no nonce was computed in time; no reward this epoch", epoch=epoch)
            return
        self.progress.state = MiningState.COMMITTING
        vectors_cid = await self._store_vectors(epoch, bytes(batch.vectors))
        if vectors_cid is None:
            self.progress.state = MiningState.NOTHING
            log.error("no batch is committed, for the disk had no room in time; no reward this epoch", epoch=epoch)
            return
        commit = PocCommit(
            epoch=epoch,
            participant=self._chain.account,
            node_id=self._engine.node_id,
            model_id=model_id,
            count=batch.count,
            root=batch.root.root(),
            vectors_cid=vectors_cid,
        )
        # One key per node and epoch: a restart that mines again cannot commit a second, different batch.
        key = f"poc/{epoch}/{self._engine.node_id}"
        await self._chain.submit(key, CommitPoc(commit))
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.DONE:
            self.progress.state = MiningState.COMMITTED
            log.info("a batch of nonces is committed", epoch=epoch, nonces=commit.count)
            if not self._chain.state.is_valid_governance_model(model_id):
                log.warning(
                    "the model of this batch was taken out of service meanwhile: the batch is judged and paid if a "
                    "group is formed, but the node is not in that group; it mines again when its model is active",
                    epoch=epoch,
                    node=self.node_id,
                    model=model_id,
                )
        else:
            self.progress.state = MiningState.REFUSED
            log.error("the batch was refused; no reward this epoch", epoch=epoch, reason=outcome.reason)
        await self._drop_kept()

    async def _store_vectors(self, epoch: EpochNumber, vectors: bytes) -> Cid | None:
        """Return the CID of the file of vectors; None if the disk had no room for it as long as batches are taken.

        Nonces that are kept on the same disk may have taken that room: they are the same bytes, and go. Where anything
        else refuses they stay: after a restart, for a higher limit say, the batch is made of them.
        """
        cid: Cid | None = None
        _, end = window(self._chain, epoch, Stage.EXCHANGE, Stage.EXCHANGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
            cid = await store_proof(self._content, vectors, epoch, "batch of nonces", self._drop_kept)
            nursery.cancel_scope.cancel()
        return cid

    async def _begin(self, epoch: EpochNumber, seed: Hash32, model_id: ModelId) -> Batch:
        """Return the batch to go on with: what a run before a restart kept of the same one, else an empty one."""
        batch = Batch()
        if self._kept is None:
            return batch
        vectors = await self._kept.begin(self._batch_name(epoch, seed, model_id), self._nonces_max)
        for place in range(0, len(vectors), VECTOR_BYTES):
            batch.add(vectors[place : place + VECTOR_BYTES])
            if batch.count % HASHED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        self.progress.nonces = batch.count
        if batch.count:
            log.info("mining goes on where it stopped", epoch=epoch, node=self.node_id, nonces=batch.count)
        return batch

    def _batch_name(self, epoch: EpochNumber, seed: Hash32, model_id: ModelId) -> Hash32:
        return keccak_digest([epoch, self._chain.account, self._engine.node_id, model_id, seed])

    async def _seed(self, epoch: EpochNumber) -> Hash32:
        begin, _ = window(self._chain, epoch, Stage.GENERATE, Stage.GENERATE)
        return await self._chain.block_hash(begin)

    async def _drop_kept(self) -> None:
        if self._kept is not None:
            await self._kept.drop()

    async def _sync_kept(self, kept: KeptNonces) -> None:
        while True:
            await trio.sleep(SYNC_SECONDS)
            await kept.sync()

    async def _compute(
        self,
        batch: Batch,
        seed: Hash32,
        model_id: ModelId,
        last_block: BlockNumber,
        latest: BlockNumber | None = None,
    ) -> None:
        """Compute a batch's further nonces until `last_block` or the limit; the first ones until `latest`, if that is
        given. A failed engine is waited for, and one that loads the model again; one with another model is not.
        """

        def may_go_on() -> bool:
            is_late = bool(batch.count) and self._chain.head.number >= last_block
            return self._engine.model_id in (model_id, None) and not is_late

        def take(rows: Rows) -> None:
            vectors = [quantise(logprobs) for logprobs in rows]  # all or none: quantise() may raise
            for vector in vectors:
                batch.add(vector)
            if self._kept is not None:
                self._kept.append(vectors)
            self.progress.nonces = batch.count

        async def stop_with_some() -> None:
            await until_head(self._chain, last_block)
            if batch.count:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, self._chain, latest or last_block, nursery.cancel_scope)
            nursery.start_soon(stop_with_some)
            if self._kept is not None:
                nursery.start_soon(self._sync_kept, self._kept)
            while True:
                if not await self._is_refused(seed, batch, take, may_go_on):
                    break
                await trio.sleep(REFUSED_SECONDS)
            nursery.cancel_scope.cancel()

    async def _is_refused(
        self, seed: Hash32, batch: Batch, take: Callable[[Rows], None], may_go_on: Callable[[], bool]
    ) -> bool:
        """Have the engine compute what is left of a batch; return whether it is to be asked again, for it refused."""
        if self._engine.model_id is None:  # without one it has no vocabulary
            return True
        questions = self._questions(seed, batch.count, self._engine.vocabulary_size)
        try:
            await read_ahead(self._engine, questions, take, purpose="mining", may_go_on=may_go_on)
        except EngineRefusedError as error:
            log.error(
                "the engine refuses to mine, and no nonce is computed until it does: where it is a remote one, see "
                "whether its address and key are right; it is asked again until mining ends",
                node=self.node_id,
                reason=str(error),
            )
            return True
        return False

    def _questions(self, seed: Hash32, first: int, vocabulary_size: int) -> Iterator[Prompts]:
        """Yield the prompts of all nonces from `first` on, a question's at a time."""
        for start in range(first, self._nonces_max, QUESTION_PROMPTS):
            yield [
                nonce_prompt(seed, self._chain.account, self._engine.node_id, nonce, vocabulary_size)
                for nonce in range(start, min(start + QUESTION_PROMPTS, self._nonces_max))
            ]

    def _registered_models(self) -> frozenset[ModelId]:
        participant = self._chain.state.participants.get(self._chain.account)
        nodes = () if participant is None else participant.ml_nodes
        return frozenset(model_id for node in nodes if node.node_id == self.node_id for model_id in node.models)
