"""The network simulator: real services over simulated ports under a virtual clock."""
