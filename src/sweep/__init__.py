"""Many runs: how each of them ends, and which were best."""
