"""Figures, each measured beside the same work done without us, in the same run: `make bench`."""
