"""How it is learned: the loop, what it minimises, checkpoints, runs."""
