"""Compiled contracts: ABIs and bytecode shipped with the Python package."""
