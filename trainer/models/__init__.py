"""Models: plain `torch.nn.Module`s that know nothing of how they are distributed."""
