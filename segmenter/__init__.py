"""U-Net segmenter (stub docstring until its owner writes it)."""
