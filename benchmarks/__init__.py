"""Measurements that decide designs: each is a module, run by its name."""
