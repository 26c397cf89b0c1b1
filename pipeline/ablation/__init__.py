"""A grid of trainings, masks and attacks: planned, reused, run and put together."""
