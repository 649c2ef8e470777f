"""Networks and their training. Reads checkpoints, but does not depend on Hydra or run folders."""
