"""Measurements, each runnable by name. They print ratios of two things measured in one run: see README.md."""
