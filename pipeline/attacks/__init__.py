"""Attacks: searches that climb an objective inside a ball.

``objectives`` says what is climbed, ``norms`` where a point may be, ``regions`` which pixels may change, ``pgd`` and ``apgd`` how
to search; these know no system. ``specs`` says what a suite may hold and what each attack does, ``runner`` runs one on a batch.
"""
