"""Quantization-aware training: weights and quantizers are trained together, rounding in place."""
