"""Compression of a trained model: each method is one part here and one YAML in configs/compress."""
