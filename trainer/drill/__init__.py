"""Rehearses faults on a config: see `python -m trainer.drill --help`."""
