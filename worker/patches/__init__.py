"""Code that relies on private parts of other libraries.

One file for each part: it says which version was read, which public way was tried first, and why that is not enough.
Each has a test in `tests/unit/patches/` that fails when the part changes.
"""
