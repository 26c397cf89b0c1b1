"""Training: one loop for both stages and all objectives.

``tasks`` binds a module to its loss and scores, ``objectives`` says what one step minimizes, ``trainer`` runs the steps on the
``state`` that is saved, ``logging`` keeps what a person reads; ``commands`` are ``train-segmenter``, ``train-classifier`` and
``train-joint``, whose stages ``joint`` binds.
"""
