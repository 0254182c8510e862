"""N:M sparsity masks: one paper, one file."""
