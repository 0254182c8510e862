"""The atoms of compression: quantizers with learnable bounds and the layers that hold them."""
