"""Proof of Compute, the prover: computes nonces with the loaded model and commits the batch on chain."""

import structlog
import trio

from node.ports import ActionStatus, Chain, Content, Engine, EngineFailedError, Network
from node.protocol.actions import CommitPoc
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, ModelId
from node.protocol.messages import PocAnnouncement
from node.protocol.nonces import nonce_prompt, quantise, vectors_root
from node.protocol.records import PocCommit
from node.protocol.stages import Stage
from node.services.timing import cancel_at, epochs_at, window

log = structlog.get_logger(__name__)

BATCH_PROMPTS = 16
"""Nonces per question to the engine: enough to fill its batch, few enough to stop in time."""
MINING_PRIORITY = 10
"""Users' requests, at 0, run first."""
ENGINE_RETRY_SECONDS = 1.0
COMMIT_BLOCKS = 2
"""Blocks before the end of GENERATE at which mining stops."""


class MiningService:
    """Mines with one engine, every epoch."""

    def __init__(self, chain: Chain, network: Network, content: Content, engine: Engine, *, nonces_max: int) -> None:
        self._chain = chain
        self._network = network
        self._content = content
        self._engine = engine
        self._nonces_max = nonces_max

    async def run(self) -> None:
        """Mine in every epoch's GENERATE stage for which this node is registered with the loaded model."""
        async for epoch in epochs_at(self._chain, Stage.GENERATE, Stage.GENERATE):
            model_id = self._engine.model_id
            if model_id is None or not self._is_registered(model_id):
                log.info("no mining this epoch: no model is loaded that this node is registered for", epoch=epoch)
                continue
            await self._mine(epoch, model_id)

    async def _mine(self, epoch: EpochNumber, model_id: ModelId) -> None:
        begin, end = window(self._chain, epoch, Stage.GENERATE, Stage.GENERATE)
        seed = await self._chain.block_hash(begin)
        vectors = await self._compute(seed, model_id, BlockNumber(max(begin, end - COMMIT_BLOCKS)))
        if not vectors:
            log.warning("no nonce was computed in time; no reward this epoch", epoch=epoch)
            return
        commit = PocCommit(
            epoch=epoch,
            participant=self._chain.account,
            node_id=self._engine.node_id,
            model_id=model_id,
            count=len(vectors),
            root=vectors_root(vectors),
            vectors_cid=await self._content.add_bytes(b"".join(vectors)),
        )
        # One key per node and epoch: a restart that mines again cannot commit a second, different batch.
        key = f"poc/{epoch}/{self._engine.node_id}"
        await self._chain.submit(key, CommitPoc(commit))
        await self._network.publish(PocAnnouncement(commit))
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.DONE:
            log.info("a batch of nonces is committed", epoch=epoch, nonces=commit.count)
        else:
            log.error("the batch was refused; no reward this epoch", epoch=epoch, reason=outcome.reason)

    async def _compute(self, seed: Hash32, model_id: ModelId, last_block: BlockNumber) -> list[bytes]:
        """Compute nonces from 0 until `last_block` or the limit; a failed engine is waited for."""
        vectors: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, self._chain, last_block, nursery.cancel_scope)
            while len(vectors) < self._nonces_max and self._engine.model_id == model_id:
                count = min(BATCH_PROMPTS, self._nonces_max - len(vectors))
                nonces = range(len(vectors), len(vectors) + count)
                prompts = [
                    nonce_prompt(seed, self._chain.account, self._engine.node_id, nonce, self._engine.vocabulary_size)
                    for nonce in nonces
                ]
                try:
                    batch = await self._engine.prompt_logprobs(prompts, priority=MINING_PRIORITY)
                except EngineFailedError as error:
                    log.warning("the engine failed while mining; trying again", reason=str(error))
                    await trio.sleep(ENGINE_RETRY_SECONDS)
                    continue
                vectors.extend(quantise(logprobs) for logprobs in batch)
            nursery.cancel_scope.cancel()
        return vectors

    def _is_registered(self, model_id: ModelId) -> bool:
        participant = self._chain.state.participants.get(self._chain.account)
        return participant is not None and any(
            node.node_id == self._engine.node_id and model_id in node.models for node in participant.ml_nodes
        )
