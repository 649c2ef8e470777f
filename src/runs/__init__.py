"""What one run is made of, and what it leaves; experiment.py puts it together."""
