"""Comparable training, honest costs: which backbone gives how much accuracy for how much cost, on your images."""
