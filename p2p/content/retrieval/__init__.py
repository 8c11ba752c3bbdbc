"""Retrieval: trees of blocks from several sources at once, verified before they are written, resumed after a crash."""
