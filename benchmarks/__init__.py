"""Ratios measured side by side: `python -m benchmarks [step peers startup cli save]` (docs/benchmarks.md)."""
