"""Letters and names; knows nothing of models."""
