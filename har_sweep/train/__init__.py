"""Training: loop, epoch, step."""
