"""Where findings go: files, the terminal, Weights & Biases."""
