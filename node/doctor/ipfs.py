"""Checks of the IPFS software that the operator runs beside the daemon."""

from node.doctor.findings import Finding, ok, warning
from p2p.content.kubo import Kubo, KuboError

CHECK_KUBO = "kubo"


async def check_kubo(address: str) -> list[Finding]:
    """Ask Kubo for its version, where the settings name one; nothing is found where they do not."""
    if not address:
        return []
    try:
        kubo = Kubo(address)
        try:
            version = await kubo.version()
        finally:
            kubo.close()
    except KuboError as error:
        return [
            warning(
                CHECK_KUBO,
                f"{error}. Fetches cannot ask it, and nothing can be published to it; all else works.",
                "Start it (ipfs daemon), or correct or empty kubo_api in [content].",
            )
        ]
    return [ok(CHECK_KUBO, f"version {version} answers at {address}")]
