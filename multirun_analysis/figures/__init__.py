"""Findings as figures for a paper."""
