"""A timm model with a new classifier, and the weights it starts from."""
