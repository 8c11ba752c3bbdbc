"""Content by CID: UnixFS import and export, blocks on disk, and the trustless gateway between peers.

Whatever comes out of this package was verified against the CID by which it was asked for.
"""
