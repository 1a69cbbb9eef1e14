"""Training: the loop, what it minimises, checkpoints, runs."""
