"""Training: one engine for both stages and all objectives.

``stage`` binds a module to its loss and scores, ``objectives`` says what one step minimises, ``engine`` runs the steps, ``run``
keeps the directory, ``commands`` are ``foreguard train-segmenter`` and ``foreguard train-classifier``.
"""
