"""Strategies: how one plain model is trained by several processes."""
