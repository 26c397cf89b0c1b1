"""The live laboratory: an attack on a trained system, watched step by step in a page on this machine."""
