"""The network and its training; knows nothing of files or Hydra."""
