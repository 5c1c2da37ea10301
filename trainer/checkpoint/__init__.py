"""Checkpoints: one format for all strategies.

PyTorch Distributed Checkpoint plans who writes what; the storage is safetensors (no pickle), under
canonical names: `model.NAME` in fp32 and `optim.KEY.NAME`. `manifest.json` is written last: a
directory without it is not a checkpoint.
"""
