"""The record of a run: the one contract between ``har_sweep`` and ``multirun_analysis``."""
