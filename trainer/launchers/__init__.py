"""Launchers run the workers: in this process, as processes of this machine, or in a Ray cluster."""
