"""The doctor: checks of everything a daemon depends on, each with what to do about it."""
