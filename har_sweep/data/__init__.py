"""Images: listed, split, decoded once, in batches."""
