"""From a raw connection to streams: Noise and our Yamux only, each step with a deadline, banned peers turned away.

libp2p 0.8.1 also offers SECIO and plain text to whoever asks, has no deadline for the security of an outbound
connection, and lets errors of a handshake out as what they happen to be. Watched by
test_an_unguarded_host_speaks_plain_text_with_whoever_asks_but_ours_does_not.
"""

from typing import Any

import trio
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from p2p.noise_session import NoiseSession
from p2p.repairs.negotiation import NEGOTIATION_SECONDS_MAX, bound_negotiation
from p2p.standing import Standing
from p2p.yamux.budget import Budget
from p2p.yamux.connection import Yamux
from p2p.yamux.wire import PROTOCOL as YAMUX

HANDSHAKE_SECONDS_MAX = 10.0


class BannedPeerError(SecurityUpgradeFailure):
    """The peer is who it says, and that is somebody who is not spoken to."""


class PinnedUpgrader(TransportUpgrader):
    """The library's, with one choice at each step."""

    def __init__(self, key_pair: KeyPair, standing: Standing, budget: Budget) -> None:
        noise: Any = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        muxers: Any = {YAMUX: Yamux}
        super().__init__({NOISE: noise}, muxers, NEGOTIATION_SECONDS_MAX)
        bound_negotiation(self.security_multistream._selector)
        bound_negotiation(self.muxer_multistream._selector)
        self._standing = standing
        self._budget = budget

    async def upgrade_security(self, raw_conn: Any, is_initiator: bool, peer_id: Any = None) -> Any:
        """Encrypt, and learn who it is. Raises SecurityUpgradeFailure."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS_MAX):
                secured: Any = await super().upgrade_security(raw_conn, is_initiator, peer_id)
        except SecurityUpgradeFailure:
            raise
        except trio.TooSlowError as error:
            raise SecurityUpgradeFailure("timeout of the handshake") from error
        except Exception as error:  # what a malformed handshake raises has no common base
            raise SecurityUpgradeFailure(f"the handshake failed: {error!r}") from error
        peer = str(secured.get_remote_peer())
        if self._standing.is_banned(peer):
            await secured.close()
            raise BannedPeerError(f"{peer} is banned")
        return NoiseSession(secured)

    async def upgrade_connection(self, conn: Any, peer_id: Any) -> Any:
        """Multiplex. Raises MuxerUpgradeFailure."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS_MAX):
                await self.muxer_multistream._selector.select(conn, conn.is_initiator, NEGOTIATION_SECONDS_MAX)
        except trio.TooSlowError as error:
            raise MuxerUpgradeFailure("timeout of the negotiation") from error
        except Exception as error:  # as above
            raise MuxerUpgradeFailure(f"no multiplexer was agreed on: {error!r}") from error
        muxed: Any = Yamux(conn, peer_id, blame=self._standing.blame, budget=self._budget)
        muxed.negotiated_muxer_protocol = YAMUX
        muxed.negotiated_security_protocol = str(NOISE)
        return muxed
