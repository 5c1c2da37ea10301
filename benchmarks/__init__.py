"""Ratios measured side by side: `python -m benchmarks [step peers startup cli save packed winograd shards]` (docs/benchmarks.md)."""
