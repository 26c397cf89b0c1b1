"""Systems to be handed on: one directory that needs no run, files that need no foreguard, a model card."""
