"""What quantization does to a network, before a method is chosen: `bitsr analyze`."""
