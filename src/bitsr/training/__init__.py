"""Training of networks, in full precision or compressed: a recipe, pictures in memory, a loop that can be killed."""
