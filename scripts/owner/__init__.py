"""The commands of scripts/owner_tools.py, a module for each kind."""
