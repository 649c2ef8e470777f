"""The program `python -m src.audit`, which checks a list of names for problems."""
