"""Directories of runs: files written whole, checkpoints, how a thing was made."""
