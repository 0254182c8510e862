"""Runs packed programs on pictures, whole or in tiles; needs no torch."""
