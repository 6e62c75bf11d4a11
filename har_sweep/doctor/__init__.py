"""``python -m har_sweep.doctor``: what would keep a sweep from running, and the remedy."""
