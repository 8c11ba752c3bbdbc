"""The rules of the network: pure, integer-only where nodes must agree, no input or output, no clock."""
