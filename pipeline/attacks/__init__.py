"""Attacks: searches that climb an objective inside a ball. They know no model, label, mask or configuration file.

``objectives`` says what is climbed, ``balls`` where a point may be, ``regions`` which pixels may change, ``pgd`` how to search.
"""
