"""Predictions of a trained model: in Python, in a terminal and in files, and how good they are."""
