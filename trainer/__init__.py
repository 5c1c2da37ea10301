"""Train one model under any distributed strategy by changing one word."""

__version__ = "0.1.0"
