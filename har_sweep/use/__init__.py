"""A finished run at work: what it answers about pictures, and the files by which others use it."""
