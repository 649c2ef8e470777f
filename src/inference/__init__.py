"""The trained model: its answers, how good they are, and files full of them."""
