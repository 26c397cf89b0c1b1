"""The words of a report, for who has not read the documentation."""

GLOSSARY = (
    ("adversarial", "of an image: changed by an attacker so as to be misclassified; of training: on such images"),
    ("clean", "not attacked"),
    ("epsilon", "the strength of the attack: how far it may change an image whose values run from 0 to 1; 8/255 is hardly visible"),
    ("fill", "what stands where the mask hides the image"),
    (
        "group",
        "images that are not independent because they come from one photograph or one track of video frames; intervals and p "
        "values count groups, so that more images of the same scene add no evidence. Where the data hide what belongs together, as "
        "the official test images of GTSRB hide their tracks, every image counts by itself and intervals may be too narrow",
    ),
    ("Holm", "a correction of p values, needed because several comparisons are made at once"),
    (
        "interval",
        "the range that holds the true figure with 95 % confidence, for images like these attacked like this. With one training it "
        "says nothing about training again; with a few it shows only part of the variation between trainings (half of the variance "
        "with two, four fifths with five)",
    ),
    ("IoU", "intersection over union: how far two masks agree, from 0 (not at all) to 1 (in every pixel)"),
    ("L-infinity, L2", "how a change is measured: by the largest change of a single value, or by its Euclidean length"),
    ("learned masks", "predicted by a segmenter from the image at hand; learned-hard ones are cut to 0 and 1"),
    ("natural", "of training: on images as they are, without attack"),
    ("oracle masks", "the data set's own; fixed under attack"),
    (
        "p, sign-flip test",
        "how often chance alone would set two equally good systems this far apart: for each group of images a coin says which "
        "system was the better one. With groups of one image it is the exact McNemar test. It speaks of these trained models; with "
        "several trainings the largest p counts, and it is 1 where they point both ways",
    ),
    ("points", "percentage points: from 20 % to 25 % is 5 points"),
    ("random masks", "cover as many pixels as the oracle, placed anywhere (they may overlap the object): what hiding alone does"),
    ("robust accuracy", "share of images that are right as they are and after every attack tried"),
    ("seed", "one repetition of training and attack with other random numbers"),
    ("segmenter", "the network that predicts masks"),
    (
        "would show",
        "the least difference that the sample would have shown four times in five, with the correction and under every seed; not "
        "estimable where too few images differ between the two systems",
    ),
)
