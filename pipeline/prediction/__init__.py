"""Class, confidence and mask for somebody's own images."""
