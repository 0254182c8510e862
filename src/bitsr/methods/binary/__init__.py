"""Networks of one-bit weights and activations: one paper, one file."""
