"""Sends one transaction after the other from one account, each journalled before it is sent.

Daemons send through the outbox (sender.py), which runs side by side with a watcher; a deployment is a straight line.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import trio
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

import contracts
from contracts.codec import creation_code, describe_revert
from node.chain.accounts import LocalAccount
from node.chain.deployment_journal import DeploymentJournal, JournalError, JournalStep
from node.chain.fees import BUMP_PER_MILLE, gas_limit
from node.chain.rpc import JsonRpc, RpcError, hex_bytes, quantity
from node.protocol.identifiers import Address, BlockNumber, Hash32

RECEIPT_SECONDS_MAX = 120.0
RESENT_SECONDS_MAX = 15.0
"""For what a broken run signed, before it is replaced at today's fees."""
RECEIPT_POLL_SECONDS = 0.2
ATTEMPTS_RAISED_MAX = 20
"""Fees are not raised beyond ten times today's, however often a run was broken off."""
CODE_PREFIX_BYTES = 5
"""How compiled code begins: enough to find it within the code that creates it."""

Progress = Callable[[str], None]


class DeploymentFailedError(Exception):
    """A transaction of the deployment was refused or not mined; the message says which and why."""


class Deployer:
    """Sends one transaction after the other, each from the journal."""

    def __init__(self, rpc: JsonRpc, account: LocalAccount, journal: DeploymentJournal, progress: Progress) -> None:
        self._rpc = rpc
        self._account = account
        self._journal = journal
        self._progress = progress

    @property
    def first_block(self) -> BlockNumber:
        """Nothing of the network happened before this block."""
        return self._journal.first_block

    async def load(self) -> None:
        """Take up a broken run, if its chain is this one."""
        genesis = await self._rpc.block(0)
        if genesis is None:
            raise DeploymentFailedError("the endpoint does not know block 0")
        newest = await self._rpc.block_number()
        try:
            self._journal.open(genesis.hash.hex(), self._account.address, BlockNumber(newest + 1))
        except JournalError as error:
            raise DeploymentFailedError(str(error)) from error

    async def contract(self, name: str, artifact: str, arguments: Sequence[object]) -> Address:
        """Deploy a contract, unless the journal says that it is, check its code, and return its address."""
        step = self._journal.step(name)
        fresh = step is None or not step.result
        address = Address(await self._do(name, f"deploy {artifact}", None, creation_code(artifact, arguments)))
        code = hex_bytes(await self._rpc.call("eth_getCode", address, "latest"))
        if not is_compiled_from(code, contracts.load(artifact).bytecode):
            raise DeploymentFailedError(
                f"the code at {address} is not that of {artifact}: do not use this deployment. If the chain replaced "
                "blocks, remove the journal beside the output file and deploy again"
            )
        if fresh:
            self._progress(f"{artifact} at {address}")
        return address

    async def call(self, name: str, recipient: Address, calldata: bytes) -> None:
        """Send a call, unless the journal says that it is done."""
        await self._do(name, name, recipient, calldata)

    def finish(self) -> None:
        """All is done: the journal goes."""
        self._journal.remove()

    async def _do(self, name: str, what: str, recipient: Address | None, data: bytes) -> str:
        """Bring one step into a block, from wherever a run before left it; return the address, or `done`."""
        purpose = keccak((recipient or "").encode() + data).hex()
        step = self._journal.step(name)
        if step is not None and step.purpose != purpose:
            raise DeploymentFailedError(
                f"{what}: the plan differs from that of the broken run; go on with the old plan, or remove the journal "
                "beside the output file to pay for a new deployment"
            )
        if step is not None and step.result:
            return step.result
        receipt: dict[str, str] | None = None
        if step is not None:  # signed by a broken run, perhaps sent, perhaps mined
            await self._send(what, step)
            receipt = await self._wait_for(step, RESENT_SECONDS_MAX)
        if receipt is None:
            step = await self._signed(name, what, step, purpose, recipient, data)
            await self._send(what, step)
            receipt = await self._wait_for(step, RECEIPT_SECONDS_MAX)
        if step is None:
            raise AssertionError("a step is signed by now")
        if receipt is None:
            raise DeploymentFailedError(
                f"{what}: not mined within {RECEIPT_SECONDS_MAX:.0f} s (nonce {step.nonce}). Run this again: it goes "
                "on with the same nonce, at today's fees. If another program used this account meanwhile, deploy "
                "from a new one"
            )
        if quantity(receipt["status"]) != 1:
            self._journal.drop(name)
            raise DeploymentFailedError(f"{what}: reverted in transaction {receipt['transactionHash']}; run this again")
        result = "done" if recipient is not None else to_checksum_address(receipt["contractAddress"])
        self._journal.put(name, replace(step, result=result))
        return result

    async def _signed(
        self, name: str, what: str, step: JournalStep | None, purpose: str, recipient: Address | None, data: bytes
    ) -> JournalStep:
        """Sign a step, for the first time or at today's fees, and keep it: before it is sent."""
        chain_nonce = quantity(await self._rpc.call("eth_getTransactionCount", self._account.address, "latest"))
        if step is None:
            step = JournalStep(self._journal.next_nonce(chain_nonce), purpose, ())
        elif chain_nonce > step.nonce:
            # A receipt may be a moment behind the count; only if it does not come somebody else used the nonce.
            return step
        nonce, known = step.nonce, step.attempts
        digest, raw = await _sign_transaction(
            self._rpc, self._account, what, recipient, data=data, value=0, nonce=nonce, attempts=len(known)
        )
        step = replace(step, attempts=(*known, (digest.hex(), raw.hex())))
        self._journal.put(name, step)
        return step

    async def _send(self, what: str, step: JournalStep) -> None:
        """Send every signed form: nodes keep the one that pays best and refuse the rest."""
        refusals = []
        for _, raw in step.attempts:
            try:
                await self._rpc.broadcast(bytes.fromhex(raw))
            except RpcError as error:
                refusals.append(error)
        if refusals and "insufficient funds" in refusals[-1].message.lower():
            raise DeploymentFailedError(f"{what}: {self._account.address} has too little to pay gas; run this again")

    async def _receipt_of(self, step: JournalStep) -> dict[str, str] | None:
        for digest, _ in step.attempts:
            receipt: dict[str, str] | None = await self._rpc.call("eth_getTransactionReceipt", "0x" + digest)
            if receipt is not None:
                return receipt
        return None

    async def _wait_for(self, step: JournalStep, seconds: float) -> dict[str, str] | None:
        receipt = None
        with trio.move_on_after(seconds):
            while (receipt := await self._receipt_of(step)) is None:  # noqa: ASYNC110 - a chain gives no signal
                await trio.sleep(RECEIPT_POLL_SECONDS)
        return receipt


def is_compiled_from(code: bytes, creation: bytes) -> bool:
    """Whether deployed `code` is what `creation` code returns: equal but for immutables, whose places hold zeros."""
    start = 0
    while code and (start := creation.find(code[:CODE_PREFIX_BYTES], start)) >= 0:
        template = creation[start : start + len(code)]
        if len(template) == len(code) and all(
            wanted in (0, found) for wanted, found in zip(template, code, strict=True)
        ):
            return True
        start += 1
    return False


async def send_transaction(
    rpc: JsonRpc, account: LocalAccount, what: str, recipient: Address | None, *, data: bytes = b"", value: int = 0
) -> dict[str, str]:
    """Send one transaction and wait for its receipt. For tools only: daemons send through the outbox.

    Raises DeploymentFailedError, which names `what`.
    """
    transaction_hash, raw = await _sign_transaction(rpc, account, what, recipient, data=data, value=value)
    try:
        await rpc.call_once("eth_sendRawTransaction", "0x" + raw.hex())
    except RpcError as error:
        raise DeploymentFailedError(f"{what}: {describe_revert(error.revert_data, error.message)}") from error
    with trio.move_on_after(RECEIPT_SECONDS_MAX):
        while True:
            receipt = await rpc.call("eth_getTransactionReceipt", "0x" + transaction_hash.hex())
            if receipt is not None:
                break
            await trio.sleep(RECEIPT_POLL_SECONDS)
        if quantity(receipt["status"]) != 1:
            raise DeploymentFailedError(f"{what}: reverted in transaction 0x{transaction_hash.hex()}")
        found: dict[str, str] = receipt
        return found
    raise DeploymentFailedError(
        f"{what}: transaction 0x{transaction_hash.hex()} was not mined within {RECEIPT_SECONDS_MAX:.0f} s; "
        "run this again"
    )


async def _sign_transaction(
    rpc: JsonRpc,
    account: LocalAccount,
    what: str,
    recipient: Address | None,
    *,
    data: bytes,
    value: int,
    nonce: int | None = None,
    attempts: int = 0,
) -> tuple[Hash32, bytes]:
    """Sign at today's fees, raised for every attempt before; without `nonce`, with the account's next one."""
    fields: dict[str, object] = {"from": account.address, "data": "0x" + data.hex(), "value": hex(value)}
    if recipient is not None:
        fields["to"] = recipient
    try:
        gas = quantity(await rpc.call("eth_estimateGas", fields))
        if nonce is None:
            nonce = quantity(await rpc.call("eth_getTransactionCount", account.address, "pending"))
        block = await rpc.block("latest")
        priority_fee = quantity(await rpc.call("eth_maxPriorityFeePerGas"))
        chain_id = await rpc.chain_id()
    except RpcError as error:
        raise DeploymentFailedError(f"{what}: {describe_revert(error.revert_data, error.message)}") from error
    max_fee = 2 * (0 if block is None else block.base_fee) + priority_fee
    for _ in range(min(attempts, ATTEMPTS_RAISED_MAX)):
        max_fee, priority_fee = (fee * BUMP_PER_MILLE // 1000 + 1 for fee in (max_fee, priority_fee))
    transaction: dict[str, object] = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "value": value,
        "data": data,
        "gas": gas_limit(gas),
        "maxFeePerGas": max_fee,
        "maxPriorityFeePerGas": priority_fee,
    }
    if recipient is not None:
        transaction["to"] = recipient
    return account.sign_transaction(transaction)
