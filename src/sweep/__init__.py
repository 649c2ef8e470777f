"""Sweeps: their runs, repeated seeds and the leaderboard."""
