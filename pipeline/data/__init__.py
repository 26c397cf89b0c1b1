"""Images with foreground masks and labels: four sources, one prepared format, one loader."""
