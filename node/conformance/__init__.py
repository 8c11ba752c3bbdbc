"""Whether a model server that somebody else made can be an ML node, and what it lacks."""
