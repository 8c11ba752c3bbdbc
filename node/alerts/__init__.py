"""Tells the operator, over a webhook, what needs a hand before it costs money."""
