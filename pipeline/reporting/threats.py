"""Threats beyond the ball, in words: what each section of the report asks, and what kind of statement its figures are."""

THREATS = {
    "minimum-norm": (
        "How far is the nearest adversarial image?",
        "A gradient search, end to end through both stages, for the nearest misclassified image. One run gives robust accuracy "
        "at every epsilon: the share of images that are farther away. Upper estimates: the search found these distances, and a "
        "better one can only find smaller ones. Where a region is set, the attacker keeps to it, and no figure is robust "
        "accuracy.",
    ),
    "decision-based": (
        "What do decisions alone give away?",
        "The same distances for an attacker who sees the predicted class and nothing else (HopSkipJump). Upper estimates, on "
        "smooth systems far above those of a gradient search. A distance clearly below that of a gradient search says that "
        "gradients were blind there, and that the lower one is to be trusted.",
    ),
    "patches": (
        "What does a patch beside the object do?",
        "Any change at all inside one square, anywhere, on the object alone or beside it, its place and content searched end to "
        "end. Upper estimates: a better place or content can only lower them. Images without room for the square are not "
        "counted, so n differs between places.",
    ),
    "corruptions": (
        "What do common corruptions do?",
        "Accuracy, and IoU of the mask with the object, under noise, blur, weather and digital artefacts, the same for every "
        "system. No bound on anything: nobody has chosen them to fool the system. The mean corruption error divides an arm's "
        "errors by those of the arm without masks.",
    ),
    "backgrounds": (
        "Does the background decide?",
        "The same objects in front of backgrounds of their own class and of others, alone, and backgrounds without their "
        "object. Accuracy, and no bound on anything. BG-gap: accuracy in front of the own class's backgrounds minus that in "
        "front of others.",
    ),
    "smoothing": (
        "What is certain?",
        "The whole two-stage system under randomized smoothing. Certified accuracy is a lower bound: no attack on the smoothed "
        "system gets below it, whichever way it goes, with the error rate that was chosen for each certificate. Accuracy under "
        "attack is an upper estimate of the same smoothed system. Neither is a statement about the system without noise.",
    ),
}
"""By kind of measurement: title and text."""
