"""The command line: what is typed, what is printed, and the way to what does the work."""
