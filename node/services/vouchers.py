"""Whether a voucher is what it claims to be: the checks that both ends of a channel make."""

from node.ports import Chain
from node.protocol.eip712 import voucher_digest
from node.protocol.identifiers import Address, Hash32
from node.protocol.signatures import SignatureError, recover
from node.services.frames import SignedVoucherFrame


class PaymentError(Exception):
    """A payment cannot be made or is not accepted; the message says why."""


def check_voucher(chain: Chain, frame: SignedVoucherFrame, *, channel: Hash32, payer: Address) -> None:
    """Raise PaymentError unless `frame` is a voucher of `channel`, signed by `payer`."""
    if frame.voucher.channel_id != channel:
        raise PaymentError("the voucher is for another channel")
    digest = voucher_digest(frame.voucher, chain.chain_id, chain.payment_channels)
    try:
        signer = recover(digest, frame.signature)
    except SignatureError as error:
        raise PaymentError(f"the voucher's signature is malformed: {error}") from error
    if signer != payer:
        raise PaymentError("the voucher was signed by another account")
