"""From runs, on disk or in Weights & Biases, to a decision: which backbone, for how much accuracy and how much cost."""
