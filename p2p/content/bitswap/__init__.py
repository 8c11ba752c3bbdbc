"""Bitswap 1.2.0, the exchange of blocks that every IPFS peer speaks: interoperation, and a fallback behind gateways.

Spec: https://specs.ipfs.tech/bitswap-protocol/. Ours instead of libp2p's, which stores what nobody asked for, refuses
blocks over 512 KiB and fetches a fifth as fast (docs/decisions/0019).
"""
