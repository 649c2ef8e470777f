"""Speed and accuracy, side by side with the tutorial's own loop."""
