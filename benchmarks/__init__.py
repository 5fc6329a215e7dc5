"""Ours against the naive ways, on the same servers, in the same run: `make bench`."""
