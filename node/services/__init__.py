"""One module per duty; each is a trio task tree that uses ports only."""
