"""Repairs of the pinned libp2p 0.8.1, one module per fault; each says what is broken there and which test watches it.

The tests are in tests/integration/p2p/test_library_faults.py: each shows the fault on an unguarded host first, and so
fails on the day upstream has mended it.
"""
