"""Serves answers to gateways: checks the request, generates, lets tokens out as they are paid for, gives a receipt."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import (
    Call,
    CallFailedError,
    Chain,
    ChatMessage,
    Engine,
    GenerationChunk,
    GenerationRequest,
    Network,
    Store,
    WallClock,
)
from node.protocol.claims import NOT_ASKED, claims_commitment, claims_of
from node.protocol.identifiers import Address, EpochNumber, TokenAmount
from node.protocol.pricing import price, receipt_digest
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.seeds import SeedShareError
from node.services.batches import BatchService
from node.services.broker import Broker
from node.services.embedding_executor import EmbeddingExecutor
from node.services.epochs import EpochBook
from node.services.frames import (
    METHOD,
    Closing,
    InferenceRequest,
    Opening,
    Prompt,
    SignedRequest,
    Tokens,
    asking_of,
    closing_bytes,
    opening_bytes,
    plain_tokens_bytes,
    read_request,
    request_digest,
    tokens_bytes,
)
from node.services.freshness import FreshRequests
from node.services.funding import Funding
from node.services.generation import Generation
from node.services.node_naming import named_node
from node.services.paid_calls import PaidCall
from node.services.receipt_book import ReceiptBookKeeper
from node.services.receipting import answer_evidence, receipt_of
from node.services.seeding import AnswerSeed, SeedBook, UnknownCommitmentError, seed_of
from node.services.served_calls import answering, model_to_serve, read_signed
from node.services.tabs import PayeeBook, Tab
from node.services.terms import FreeMode, unit_price_for
from node.services.timing import position

log = structlog.get_logger(__name__)

CALLS_MAX = 1024
"""Calls that are looked at at once, each with a request of up to 256 KiB; how many are served the broker says."""
CAUTIOUS_TOKENS_MAX = 4
"""What a payer may owe that left many tokens unpaid lately: a voucher for every two tokens is slow, but is service."""
AHEAD_STEPS = 4
"""Allowances of tokens that an engine may be ahead of what was let out. Payment takes a round trip: at 200 ms and 64
tokens an engine may write 1,280 tokens a second before it has to stop for it."""
USER_PRIORITY = 0


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as far as it was given: what its receipt is made of."""

    asked: SignedRequest
    model: ModelRecord
    generation: Generation
    drawn: AnswerSeed
    prompt_ids: Sequence[int]
    output: list[int]
    """Tokens that were let out; it grows."""


class Executor:
    """Answers `infer`, and has `embed` answered with the same books.

    Money: nothing is let out beyond the allowance, nothing is charged that was not let out.
    """

    def __init__(
        self,
        chain: Chain,
        network: Network,
        store: Store,
        epochs: EpochBook,
        batches: BatchService,
        broker: Broker,
        *,
        unpaid_tokens_max: int,
        wall_clock: WallClock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        free: FreeMode | None = None,
        book: ReceiptBookKeeper | None = None,
    ) -> None:
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._batches = batches
        self._broker = broker
        self._unpaid_tokens_max = unpaid_tokens_max
        self._wall_clock = wall_clock
        self._free = free
        self._book = book
        self.payments = self._payments = PayeeBook(chain, store)
        """Shared with whatever else this node is paid for over the same channels."""
        self.funding = self._funding = Funding(chain, self._payments.covered)
        self._fresh = FreshRequests(store, wall_clock)
        self.seeds = SeedBook(store, lambda: position(chain).epoch, random_bytes=random_bytes)
        self.running = 0
        network.serve(METHOD, self.serve, concurrency=CALLS_MAX)
        self.vectors = EmbeddingExecutor(
            chain,
            network,
            store,
            epochs,
            batches,
            broker,
            self._payments,
            self._funding,
            self._fresh,
            unpaid_tokens_max=unpaid_tokens_max,
            wall_clock=wall_clock,
            free=free,
            book=book,
        )

    async def serve(self, call: Call) -> None:
        """Serve one call. Raises CallFailedError with a word the gateway can act on."""
        asked = read_signed(call.payload, read_request, lambda read: request_digest(read.request), self._chain)
        request = asked.request
        model = model_to_serve(request, self._epochs, self._broker)
        self._fresh.admit(request.request_id, request.payer, len(request.prefix), request.at)
        unpaid_tokens_max = self._trust(request, model)
        tab = self._payments.begin_anyway(request.payer, is_free=request.free)
        self.running += 1
        try:
            with answering(request, self._payments, tab, self._store):
                await self._answer(call, asked, model, tab, unpaid_tokens_max)
        finally:
            self.running -= 1

    def _trust(self, request: InferenceRequest, model: ModelRecord) -> int:
        """Return how many tokens the payer may owe: next to none if it left many unpaid lately.

        It is not sent away, for a connection that breaks under many answers looks the same as a thief.
        """
        allowance = price(0, self._unpaid_tokens_max, model, self._unit_price(request))
        if request.free or not self._payments.is_bad_debtor(request.payer, allowance=allowance):
            return self._unpaid_tokens_max
        return min(CAUTIOUS_TOKENS_MAX, self._unpaid_tokens_max)

    async def _answer(
        self, call: Call, asked: SignedRequest, model: ModelRecord, tab: Tab, unpaid_tokens_max: int
    ) -> None:
        request = asked.request
        prompt_ids = await self._prompt_of(request, model)
        max_tokens = min(request.max_tokens, model.context_length - len(prompt_ids))
        drawn = self._seed_of(request)
        newest = None if request.free else self._payments.newest_voucher(request.payer)
        wanted = GenerationRequest(
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            sampling=request.sampling,
            seed=drawn.seed,
            stop=request.stop,
            priority=USER_PRIORITY,
            logprobs=request.logprobs,
            response_format=request.response_format,
            private=request.private,
        )
        generation = Generation(
            self._broker, model.model_id, request.payer, wanted, ahead_tokens_max=AHEAD_STEPS * unpaid_tokens_max
        )
        step = min(unpaid_tokens_max, max_tokens)
        unit_price = self._unit_price(request)
        first_cost = price(len(prompt_ids), step, model, unit_price)
        paid = PaidCall(call, self._payments, tab)
        output: list[int] = []
        given = Given(asked, model, generation, drawn, prompt_ids, output)
        try:
            async with self._funding.held(request.payer, first_cost), trio.open_nursery() as nursery:
                await nursery.start(generation.run)
                await paid.send(
                    opening_bytes(Opening(prompt_ids, unpaid_tokens_max, newest, drawn.share, generation.by_rule))
                )
                async with paid.taking_payments():
                    token_price = price(0, 1, model, unit_price)
                    await self._let_out(paid, generation, token_price, len(prompt_ids), unpaid_tokens_max, output)
                    await self._close(paid, given)
                nursery.cancel_scope.cancel()
        finally:
            if output and tab.receipt is None and not request.private:
                # Booked as what was given so far: who leaves before the receipt would choose what is audited else.
                self._store.save_receipt(self._sign(given))

    async def _prompt_of(self, request: InferenceRequest, model: ModelRecord) -> tuple[int, ...]:
        """Return the tokens to read. Raises CallFailedError if there is no room for an answer, or not in this model."""
        engine = self._broker.ready_engine(request.model_id)
        if engine is None:
            raise CallFailedError("not-serving", f"no engine here has {request.model_id} ready")
        given = (*request.prompt.token_ids, *request.prefix)
        highest = max(given, default=0)
        if highest >= engine.vocabulary_size:
            raise CallFailedError(
                "bad-request", f"token id {highest} is none of the model's, which end at {engine.vocabulary_size - 1}"
            )
        prompt_ids = (*await render(engine, request.prompt), *request.prefix)
        if len(prompt_ids) >= model.context_length:
            raise CallFailedError(
                "too-long",
                f"the prompt has {len(prompt_ids)} tokens; with an answer the model reads {model.context_length}",
            )
        return prompt_ids

    def _unit_price(self, request: InferenceRequest) -> TokenAmount:
        chain_price = self._chain.parameters.unit_price
        return unit_price_for(request.payer, asks_free=request.free, free=self._free, unit_price=chain_price)

    def _seed_of(self, request: InferenceRequest) -> AnswerSeed:
        epoch, state = position(self._chain).epoch, self._chain.state

        def is_member(account: Address) -> bool:
            groups = (self._epochs.group_of(EpochNumber(number), state) for number in (epoch, max(0, epoch - 1)))
            return any(member.participant == account for group in groups for member in group.members)

        try:
            return seed_of(request, self.seeds, self._chain.sign, is_member)
        except UnknownCommitmentError as error:
            raise CallFailedError("stale-seed", str(error)) from error  # another executor's may be fresh
        except SeedShareError as error:
            raise CallFailedError("bad-request", str(error)) from error

    async def _let_out(
        self,
        paid: PaidCall,
        generation: Generation,
        token_price: int,
        prompt_tokens: int,
        unpaid_tokens_max: int,
        output: list[int],
    ) -> None:
        """Send tokens as far as they are covered; each is in `output` once it was sent."""
        allowance = token_price * unpaid_tokens_max
        # A gateway pays when half of the allowance is owed, so pieces of half of it always fit above what it has not
        # paid yet. A larger one could not be let out, nor paid for before it was: both ends would wait for ever.
        piece_tokens_max = max(1, unpaid_tokens_max // 2)
        # Before the engine reads it: else anyone could have long prompts read for nothing.
        await paid.charge(token_price * prompt_tokens, allowance=allowance)

        def let_out_now(piece: GenerationChunk) -> bool:
            token_ids = piece.token_ids
            if piece.logprobs:
                data = tokens_bytes(Tokens(token_ids, piece.text, "", piece.logprobs))
            else:
                data = plain_tokens_bytes(token_ids, piece.text)
            is_given = paid.give_now(data, token_price * len(token_ids), allowance=allowance)
            if is_given:
                output.extend(token_ids)
            return is_given

        generation.begin()
        while True:
            piece = await generation.next_piece(piece_tokens_max, let_out_now)
            await paid.charge(token_price * len(piece.token_ids), allowance=allowance)
            reason = piece.finish_reason
            await paid.send(tokens_bytes(Tokens(piece.token_ids, piece.text, reason or "", piece.logprobs)))
            output.extend(piece.token_ids)
            if reason is not None:
                return

    def _sign(self, given: Given) -> SignedReceipt:
        """Sign the receipt of an answer, and keep what its auditors need."""
        request, generation, drawn = given.asked.request, given.generation, given.drawn
        claimed = claims_of(generation.logprobs[: len(given.output)])
        receipt = receipt_of(
            request,
            given.model,
            given.prompt_ids,
            given.output,
            self._unit_price(request),
            epoch=position(self._chain).epoch,
            node_id=named_node(self._chain, self._epochs, generation.node_ids[-1]),
            at=self._wall_clock(),
            seed=drawn.seed,
            seeded_by_user=drawn.share is None,
            by_rule=generation.by_rule,
            claims_commitment=NOT_ASKED if request.logprobs is None else claims_commitment(claimed),
            asking=asking_of(request),
        )
        signed = SignedReceipt(receipt, self._chain.sign(receipt_digest(receipt)))
        if self._book is not None:
            answer = answer_evidence(request, given.prompt_ids, given.output, drawn)
            self._book.keep(signed, answer, claimed, given.asked.signature)
        return signed

    async def _close(self, paid: PaidCall, given: Given) -> None:
        """Sign the receipt, send it, wait for the voucher that pays it in full and for the payer's signature."""
        signed = self._sign(given)
        receipt = signed.receipt
        # Before anybody has the receipt: whoever holds it may have the answer audited, or miss it in this node's books.
        self._store.save_receipt(signed)
        await self._store.durable()  # also after the loss of power
        signed = await paid.settle(signed, closing_bytes(Closing(signed)))
        self._store.save_receipt(signed)
        if not receipt.is_private:  # it commits to the prompt's tokens: whoever guesses them would find it
            self._batches.add_receipt(signed)
        log.debug("an answer was given and paid", tokens=receipt.output_tokens, price=receipt.price)


async def render(engine: Engine, prompt: Prompt) -> tuple[int, ...]:
    """Return the tokens of a prompt of any kind."""
    if prompt.token_ids:
        return prompt.token_ids
    if prompt.text is not None:
        return await engine.tokenize(prompt.text)
    messages = [
        ChatMessage(turn.role, turn.content, turn.name, turn.tool_call_id, turn.tool_calls) for turn in prompt.turns
    ]
    return await engine.render_chat(messages, prompt.tools)
