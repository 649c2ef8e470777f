"""What goes on around a run's training, and what the run leaves."""
