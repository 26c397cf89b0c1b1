"""Masks and what they do to an image, for training and for testing. ``config`` says which ones, without importing torch.

``sources`` make masks, ``gates`` turn a segmenter's logits into them, ``fills`` put something where they are 0, and ``context`` is
what a batch brings along for them. Everything is a function of tensors and, where it is random, of one seed per image: the same
image gets the same mask and the same fill in every call and in every batch.
"""
