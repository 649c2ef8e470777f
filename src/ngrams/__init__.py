"""Models that score the letter n-grams of a name."""
