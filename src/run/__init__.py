"""Everything around the training of a run: settings, callbacks, output files and signals."""
