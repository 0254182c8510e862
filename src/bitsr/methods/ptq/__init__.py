"""Post-training quantization: a few unlabelled pictures, minutes, no ground truth."""
