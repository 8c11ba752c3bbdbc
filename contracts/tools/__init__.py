"""What builds and judges the contracts; not part of the installed package."""
