"""JSON-RPC to EVM nodes: ordinary reads from the best endpoint, questions of record from all that are usable.

Detail: what money depends on (blocks, logs, receipts at confirmation, settled transaction counts) is asked with
`call_agreed`: most endpoints must say the same, and one that says otherwise is left out for a while. web3.py's own
transport does not run under trio (decision 0002).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import trio

from node.chain.endpoints import ChainIdentity, Endpoint, EndpointPool, HealthLimits
from node.chain.http_calls import HttpCalls
from node.chain.plain_posts import PlainPosts
from node.protocol.identifiers import BlockNumber, Hash32

HASH_BYTES = 32
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_MAX = 5.0
READ_ROUNDS_MAX = 6
"""Rounds over all endpoints before a read fails; callers that must go on try again."""
AGREED_SECONDS_MAX = 8.0
"""For a question to all endpoints; those that have not answered by then do not count."""
CONTRADICTION_SECONDS_MAX = 0.1
"""What slower endpoints get once the answer is certain: time to be caught lying, no more."""
DISAGREEMENT_ROUNDS = 2
DISAGREEMENT_PAUSE_SECONDS = 0.5
"""Two honest endpoints differ for a moment while a block replaces another: ask again before blaming one."""
REVERTED_CODE = 3
REVERT_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2}){4,}")
RATE_LIMIT_WORDS = ("rate limit", "too many requests", "limit exceeded", "capacity exceeded", "throttle")
RANGE_WORDS = ("range", "block", "result", "log")

Projection = Callable[[Any], object]
"""Takes from a result the part that matters; equal parts are the same answer."""


class RpcUnavailableError(Exception):
    """No endpoint answered. The message names each and why."""


class EndpointsDisagreeError(RpcUnavailableError):
    """The endpoints say different things and none has most on its side: nothing may be done on either's word."""


class RpcError(Exception):
    """An endpoint answered with an error."""

    def __init__(self, code: int, message: str, data: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data
        """What the node added, often hex revert data; may be empty."""

    @property
    def revert_data(self) -> bytes:
        """What the contract said when it reverted; empty if nothing."""
        found = REVERT_DATA.search(self.data)
        return b"" if found is None else bytes.fromhex(found.group()[2:])

    @property
    def is_revert(self) -> bool:
        """Whether the call itself was refused by the EVM, rather than the request by the endpoint."""
        return self.code == REVERTED_CODE or bool(self.revert_data) or "execution reverted" in self.message.lower()

    @property
    def is_rate_limit(self) -> bool:
        """Whether the endpoint wants fewer requests, and says nothing of the chain.

        Refusals of a range of logs use the same code and similar words; they are answers.
        """
        message = self.message.lower()
        return any(word in message for word in RATE_LIMIT_WORDS) and not any(word in message for word in RANGE_WORDS)


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header, as far as this program needs it, and which transactions are in it."""

    number: BlockNumber
    hash: Hash32
    parent_hash: Hash32
    timestamp: int
    base_fee: int
    transactions: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one endpoint said: a result, or an error of the request itself."""

    endpoint: Endpoint
    result: Any
    error: RpcError | None
    value: object
    """The part of the result that matters."""

    @property
    def empty(self) -> bool:
        """Whether it says that there is nothing, which an endpoint that is behind says of everything new."""
        return self.error is not None or self.result is None


class JsonRpc:
    """A client of one chain behind one or more endpoints, the preferred first.

    With `identity`, an endpoint is compared with it before it is used, and never used if it differs; when that leaves
    none, everything raises WrongChainError. `plain` has the short ways to those endpoints that have one.
    """

    def __init__(
        self,
        urls: Sequence[str],
        client: httpx.AsyncClient,
        *,
        identity: ChainIdentity | None = None,
        limits: HealthLimits | None = None,
        plain: Mapping[str, PlainPosts] | None = None,
    ) -> None:
        self._pool = EndpointPool(urls, limits or HealthLimits())
        ways = plain or {}
        self._calls = {
            endpoint: HttpCalls(endpoint.url, client, ways.get(endpoint.url)) for endpoint in self._pool.endpoints
        }
        self._identity = identity

    async def call(self, method: str, *parameters: object) -> Any:
        """Return the result of an ordinary read, from the best endpoint that answers; tries READ_ROUNDS_MAX rounds.

        Raises RpcError if an endpoint refused the request, RpcUnavailableError if none answered.
        """
        backoff = BACKOFF_SECONDS_FIRST
        for round_number in range(READ_ROUNDS_MAX):
            try:
                return await self.call_once(method, *parameters)
            except RpcUnavailableError:
                if round_number == READ_ROUNDS_MAX - 1:
                    raise
                await trio.sleep(backoff)
                backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)
        raise AssertionError("the loop returns or raises")

    async def call_once(self, method: str, *parameters: object) -> Any:
        """As `call`, but with a single round over the endpoints."""
        failures = []
        for endpoint in self._pool.to_ask(trio.current_time()):
            try:
                return await self._ask(endpoint, method, parameters)
            except (httpx.HTTPError, ValueError) as error:
                failures.append(_described(endpoint, error))
        self._pool.check_any_left()
        raise RpcUnavailableError(f"no chain endpoint answered {method}: {'; '.join(failures) or 'none is usable'}")

    async def call_agreed(self, method: str, *parameters: object, key: Projection | None = None) -> Any:
        """Return the result that most endpoints give; for everything that money depends on.

        `key` takes from a result what must agree; where it raises, the answer is nonsense. None and errors count only
        if nobody has anything. Raises RpcError if all refuse, EndpointsDisagreeError if no answer has most on its side.
        An endpoint in the minority is left out for a while.
        """
        for round_number in range(DISAGREEMENT_ROUNDS):
            answers = await self._ask_all(method, parameters, key)
            groups = grouped([answer for answer in answers if not answer.empty] or answers)
            best, second = groups[0], groups[1] if len(groups) > 1 else []
            decided = len(best) >= self._pool.quorum and len(best) > len(second)
            if decided and (len(groups) == 1 or round_number == DISAGREEMENT_ROUNDS - 1):
                for answer in (answer for group in groups[1:] for answer in group):
                    self._pool.quarantine(answer.endpoint, trio.current_time(), method)
                return _outcome(best)
            if round_number < DISAGREEMENT_ROUNDS - 1:
                await trio.sleep(DISAGREEMENT_PAUSE_SECONDS)
        for answer in answers:
            if answer.error is not None:
                raise answer.error  # too few could answer at all, and this says why
        sides = " / ".join(", ".join(answer.endpoint.name for answer in group) for group in groups)
        raise EndpointsDisagreeError(f"the chain endpoints disagree on {method}: {sides}")

    async def call_any(self, method: str, *parameters: object) -> Any:
        """Return a result if any endpoint has one; raise RpcError only if enough of them refuse."""
        answers = await self._ask_all(method, parameters, None, all_of_them=True)
        for answer in answers:
            if answer.error is None:
                return answer.result
        reverts = [answer.error for answer in answers if answer.error is not None and answer.error.is_revert]
        if len(reverts) >= self._pool.quorum:
            raise reverts[0]
        others = [answer.error for answer in answers if answer.error is not None and not answer.error.is_revert]
        raise others[0] if others else RpcUnavailableError(f"too few chain endpoints answered {method}")

    async def broadcast(self, raw: bytes) -> None:
        """Give a signed transaction to every usable endpoint: one that swallows it does no harm.

        Raises RpcError if each refused it (which a node also does with what it has already).
        """
        answers = await self._ask_all("eth_sendRawTransaction", ("0x" + raw.hex(),), None, all_of_them=True)
        refusals = [answer.error for answer in answers if answer.error is not None]
        if len(refusals) == len(answers):
            raise refusals[0]

    async def block(self, number: int | str) -> Block | None:
        """Return a block by number or tag from the best endpoint, or None if it does not have it (yet)."""
        return parse_block(await self.call("eth_getBlockByNumber", block_tag(number), False))

    async def agreed_block(self, number: int) -> Block | None:
        """Return the block at `number` that most endpoints have, or None if none has one."""
        block = parse_block(await self.call_agreed("eth_getBlockByNumber", hex(number), False, key=parse_block))
        if block is not None and block.number != number:
            raise ValueError(f"asked for block {number}, got {block.number}")
        return block

    async def head(self) -> BlockNumber:
        """Return the newest block that most endpoints have."""
        return await self._height("eth_blockNumber", (), quantity)

    async def finalized(self) -> BlockNumber | None:
        """Return the newest block that most endpoints call final, or None if they know no such thing."""
        try:
            return await self._height(
                "eth_getBlockByNumber", ("finalized", False), lambda result: quantity(result["number"])
            )
        except RpcError:
            return None

    async def transaction_count(self, account: str) -> int:
        """Return how many nonces of `account` are used in blocks most endpoints have."""
        return await self._height("eth_getTransactionCount", (account, "latest"), quantity)

    async def block_number(self) -> BlockNumber:
        """Return the newest block's number, of the best endpoint."""
        return BlockNumber(quantity(await self.call("eth_blockNumber")))

    async def chain_id(self) -> int:
        """Return the EIP-155 chain id."""
        return quantity(await self.call("eth_chainId"))

    async def _height(self, method: str, parameters: Sequence[object], key: Callable[[Any], int]) -> BlockNumber:
        now = trio.current_time()
        answers = await self._ask_all(method, parameters, None, asked=self._pool.to_probe(now), all_of_them=True)
        named = [answer for answer in answers if not answer.empty]
        if not named:
            raise next((a.error for a in answers if a.error is not None), RpcError(0, f"{method}: nothing found", ""))
        heights = [(answer.endpoint, key(answer.result)) for answer in named]
        if len(heights) < self._pool.quorum:
            raise RpcUnavailableError(f"too few chain endpoints answer {method} to believe them")
        if method == "eth_blockNumber":
            return BlockNumber(self._pool.heads_seen(heights, trio.current_time()))
        return BlockNumber(self._pool.most(heights))

    async def _ask_all(
        self,
        method: str,
        parameters: Sequence[object],
        key: Projection | None,
        *,
        asked: Sequence[Endpoint] | None = None,
        all_of_them: bool = False,
    ) -> list[Answer]:
        """Ask endpoints side by side; return as soon as the outcome is certain, unless `all_of_them` are wanted."""
        chosen = self._pool.to_ask(trio.current_time()) if asked is None else asked
        answers: list[Answer] = []
        failures: list[str] = []
        heard: set[Endpoint] = set()
        scope = trio.CancelScope(deadline=trio.current_time() + AGREED_SECONDS_MAX)

        async def ask(endpoint: Endpoint) -> None:
            try:
                result = await self._ask(endpoint, method, parameters)
                value = None if result is None else _projected(key, result)
                answers.append(Answer(endpoint, result, None, value))
            except RpcError as error:
                answers.append(Answer(endpoint, None, error, None))
            except (httpx.HTTPError, ValueError) as error:
                failures.append(_described(endpoint, error))
            heard.add(endpoint)
            if len(answers) >= self._pool.quorum:
                scope.deadline = min(scope.deadline, trio.current_time() + self._pool.limits.straggler_seconds_max)
            if not all_of_them and _is_certain(answers, len(chosen), self._pool.quorum):
                scope.deadline = min(scope.deadline, trio.current_time() + CONTRADICTION_SECONDS_MAX)
                heard.update(chosen)  # the others cannot change it; that they were slower is no fault

        if len(chosen) == 1:
            await ask(chosen[0])  # no tasks, no waiting: the way of a single endpoint
        else:
            with scope:
                async with trio.open_nursery() as nursery:
                    for endpoint in chosen:
                        nursery.start_soon(ask, endpoint)
        for endpoint in set(chosen) - heard:
            self._pool.failed(endpoint, trio.current_time(), "no answer while others answered")
        if len(answers) < self._pool.quorum:
            self._pool.check_any_left()
            raise RpcUnavailableError(
                f"too few chain endpoints answered {method}: {'; '.join(failures) or 'none within the time'}"
            )
        return answers

    async def _ask(self, endpoint: Endpoint, method: str, parameters: Sequence[object]) -> Any:
        """Ask one endpoint and keep its health. Raises RpcError for an answer, HTTPError or ValueError for none."""
        try:
            if self._identity is not None and not endpoint.verified:
                await self._verify(endpoint, self._identity)
            result = await self._exchange(endpoint, method, parameters)
        except RpcError as error:
            if not error.is_rate_limit:
                self._pool.succeeded(endpoint)
                raise
            self._pool.failed(endpoint, trio.current_time(), str(error))
            raise ValueError(str(error)) from error
        except (httpx.HTTPError, ValueError) as error:
            if not endpoint.refused:
                self._pool.failed(endpoint, trio.current_time(), str(error) or type(error).__name__)
            raise
        self._pool.succeeded(endpoint)
        return result

    async def _exchange(self, endpoint: Endpoint, method: str, parameters: Sequence[object]) -> Any:
        reply = await self._calls[endpoint].call(method, parameters)
        error = reply.get("error")
        if error is not None:
            raise _rpc_error(error)
        return reply["result"]

    async def _verify(self, endpoint: Endpoint, identity: ChainIdentity) -> None:
        chain_id = quantity(await self._exchange(endpoint, "eth_chainId", ()))
        genesis = parse_block(await self._exchange(endpoint, "eth_getBlockByNumber", ("0x0", False)))
        if chain_id != identity.chain_id:
            self._pool.refuse(
                endpoint,
                f"the chain of {endpoint.name} has id {chain_id}, but the settings say chain_id = "
                f"{identity.chain_id}: set [chain] rpc_urls to an endpoint of the right chain",
            )
        elif genesis is None or genesis.hash.hex() != identity.genesis_hash:
            self._pool.refuse(
                endpoint,
                f"the chain of {endpoint.name} has the right id {chain_id} but another past than the one the network "
                "was deployed on (a development chain that was started anew?): deploy again, or use the network's own "
                "endpoint",
            )
        else:
            endpoint.verified = True
            return
        raise ValueError(endpoint.refused)


def grouped(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Sort answers into groups that say the same, the largest first."""
    groups: list[list[Answer]] = []
    for answer in answers:
        for group in groups:
            if group[0].empty == answer.empty and group[0].value == answer.value:
                group.append(answer)
                break
        else:
            groups.append([answer])
    return sorted(groups, key=len, reverse=True)


def _is_certain(answers: Sequence[Answer], asked: int, quorum: int) -> bool:
    """Whether most of all endpoints asked have said the same already."""
    groups = grouped([answer for answer in answers if not answer.empty])
    return bool(groups) and len(groups) == 1 and len(groups[0]) > asked // 2 and len(groups[0]) >= quorum


def _outcome(group: Sequence[Answer]) -> Any:
    """Return what a group of equal answers says; of refusals and nothing, nothing."""
    for answer in group:
        if answer.error is None:
            return answer.result
    first = group[0].error
    if first is None:
        raise AssertionError("an answer has a result or an error")
    raise first


def block_tag(number: int | str) -> str:
    """Return a block number or tag as JSON-RPC wants it."""
    return number if isinstance(number, str) else hex(number)


def parse_block(result: Any) -> Block | None:
    """Read a block with its transactions' hashes; raise ValueError if it is malformed."""
    if result is None:
        return None
    try:
        return Block(
            BlockNumber(quantity(result["number"])),
            hash32(result["hash"]),
            hash32(result["parentHash"]),
            quantity(result["timestamp"]),
            quantity(result.get("baseFeePerGas", "0x0")),
            tuple(hash32(entry) for entry in result.get("transactions", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a block: {error!r}") from error


def _projected(key: Projection | None, result: Any) -> object:
    if key is None:
        return result
    try:
        return key(result)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"a malformed result: {error!r}") from error


def _described(endpoint: Endpoint, error: Exception) -> str:
    return endpoint.refused or f"{endpoint.name}: {str(error) or type(error).__name__}"


def quantity(text: object) -> int:
    """Parse a JSON-RPC quantity (`0x…`); raise ValueError on anything else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"expected a quantity, got {text!r}")
    return int(text, 16)


def hash32(text: object) -> Hash32:
    """Parse a 32-byte hash; raise ValueError on anything else."""
    data = hex_bytes(text)
    if len(data) != HASH_BYTES:
        raise ValueError(f"expected 32 bytes, got {len(data)}")
    return Hash32(data)


def hex_bytes(text: object) -> bytes:
    """Parse `0x…` bytes; raise ValueError on anything else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"expected hex bytes, got {text!r}")
    return bytes.fromhex(text[2:])


def _rpc_error(error: object) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(0, str(error), "")
    data = error.get("data")
    if isinstance(data, dict):  # some nodes wrap it
        data = data.get("data")
    code = error.get("code")
    return RpcError(
        code if isinstance(code, int) else 0, str(error.get("message", "")), data if isinstance(data, str) else ""
    )
