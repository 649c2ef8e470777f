"""Many runs: what a sweep may be, how its runs end, and which were best."""
