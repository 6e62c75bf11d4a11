"""Variants of a finished run: the same network, smaller or faster, each scored and measured as the run was."""
