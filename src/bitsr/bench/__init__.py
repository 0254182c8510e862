"""Speed and memory of our backends beside other runtimes, on the same network, in one interleaved run."""
