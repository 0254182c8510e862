"""Compression methods: one paper, one file, each a list of stages."""
