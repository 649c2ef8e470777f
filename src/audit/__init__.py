"""The program `python -m src.audit`: problems in a list of names."""
