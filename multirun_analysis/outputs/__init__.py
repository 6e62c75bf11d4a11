"""Where findings go: terminal, files, Weights & Biases."""
