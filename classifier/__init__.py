"""ResNet classifier (stub docstring until its owner writes it)."""
