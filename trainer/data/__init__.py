"""Data sets: random access by index, so that order is arithmetic and resuming is exact."""
