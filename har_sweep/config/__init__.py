"""Overrides -> a checked config -> a run's identity."""
