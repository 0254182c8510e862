"""Runs programs with the native kernels: a program becomes engine steps, groups of steps, and a plan of memory."""
