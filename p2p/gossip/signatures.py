"""Who made a message: libp2p's signature over it, made and checked.

The key is in the maker's id (Ed25519), or comes with the message and must hash to that id (RSA).
"""

from collections import OrderedDict

from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX

MAKERS_MAX = 4096
"""Keys kept unpacked."""
PREFIX = PUBSUB_SIGNING_PREFIX.encode()


class Verifier:
    """Checks signatures; remembers the keys of makers whose signature was good."""

    def __init__(self) -> None:
        self._makers: OrderedDict[bytes, tuple[ID, PublicKey]] = OrderedDict()

    def maker_of(self, message: rpc_pb2.Message) -> ID | None:
        """Return who signed `message`, or None if nobody did. Never raises."""
        try:
            maker, key = self._makers.get(message.from_id) or _key_of(message)
            signed = rpc_pb2.Message(
                from_id=message.from_id, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs
            )
            if not key.verify(PREFIX + signed.SerializeToString(), message.signature):
                return None
        except Exception:  # keys and signatures are a stranger's bytes, and the libraries raise what they like
            return None
        self._makers[message.from_id] = (maker, key)
        self._makers.move_to_end(message.from_id)
        if len(self._makers) > MAKERS_MAX:
            self._makers.popitem(last=False)
        return maker


def sign_message(message: rpc_pb2.Message, key: PrivateKey) -> None:
    """Sign a message that is otherwise complete."""
    message.signature = key.sign(PREFIX + message.SerializeToString())
    message.key = key.get_public_key().serialize()


def _key_of(message: rpc_pb2.Message) -> tuple[ID, PublicKey]:
    maker = ID(message.from_id)
    key = maker.extract_public_key()
    if key is None:
        key = deserialize_public_key(message.key)
    if ID.from_pubkey(key) != maker:
        raise ValueError("the key is another's")
    return maker, key
