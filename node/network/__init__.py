"""The network port on libp2p."""
