"""The words of a report, for who has not read the documentation."""

GLOSSARY = (
    ("adversarial", "of an image: changed by an attacker so as to be misclassified; of training: on such images"),
    ("clean", "not attacked"),
    ("epsilon", "the strength of the attack: how far it may change an image whose values run from 0 to 1; 8/255 is hardly visible"),
    ("fill", "what stands where the mask hides the image"),
    ("Holm", "a correction of p values, needed because several comparisons are made at once"),
    ("interval", "the range that holds the true figure with 95 % confidence, for images like these attacked like this"),
    ("IoU", "intersection over union: how far two masks agree, from 0 (not at all) to 1 (in every pixel)"),
    ("L-infinity, L2", "how a change is measured: by the largest change of a single value, or by its Euclidean length"),
    ("learned masks", "predicted by a segmenter from the image at hand; learned-hard ones are cut to 0 and 1"),
    ("McNemar test", "asks whether the images that only one of two systems has right could be a fair coin's doing"),
    ("natural", "of training: on images as they are, without attack"),
    ("oracle masks", "the data set's own; fixed under attack"),
    ("points", "percentage points: from 20 % to 25 % is 5 points"),
    ("random masks", "cover as many pixels as the oracle, elsewhere: what hiding alone does"),
    ("robust accuracy", "share of images that are right as they are and after every attack tried"),
    ("seed", "one repetition of training and attack with other random numbers"),
    ("segmenter", "the network that predicts masks"),
)
