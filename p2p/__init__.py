"""The libp2p layer: host, gossip, request streams and content exchange; knows nothing of inference or money."""
