"""Reading, normalizing, splitting, encoding and sampling names."""
