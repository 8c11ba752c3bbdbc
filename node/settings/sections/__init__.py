"""The tables of the settings file, a module for each, named as its table is.

Every key has its type, limits, default and the description that `quern init` writes.
"""
