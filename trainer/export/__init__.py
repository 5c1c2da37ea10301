"""A trained model as a file that another runtime runs, checked against PyTorch before it is kept."""
