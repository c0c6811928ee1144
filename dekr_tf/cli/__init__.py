"""The `dekr` command: one module per verb."""
