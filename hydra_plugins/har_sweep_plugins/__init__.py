"""Hydra's two doors to har_sweep: its sweeper and its launcher. Every Hydra program imports them, so nothing heavy."""
