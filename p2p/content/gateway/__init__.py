"""The trustless IPFS gateway that a daemon serves over plain TCP: raw blocks, parts of them, and CAR streams.

Spec: https://specs.ipfs.tech/http-gateways/trustless-gateway/. Whoever asks verifies (docs/decisions/0003, 0020).
"""
