"""The rules on source files and objects: one exception for whatever breaks one, and what to do about each.

What one file cannot tell is said of a whole set, counted over the samples that were taken: ``NOTES``.
"""

from collections.abc import Mapping


class Rejected(Exception):  # noqa: N818 - it becomes a Reject, not a failure
    """What was read breaks a rule. ``detail`` is one line with what was found."""

    def __init__(self, rule: str, detail: str) -> None:
        assert rule in REMEDIES, rule
        super().__init__(rule, detail)
        self.rule, self.detail = rule, detail


SAME_OUTLINE = 0.9
"""Intersection over union from which on two outlines are of one object: of 3,000 objects of COCO it is three or four pairs."""

REMEDIES: Mapping[str, str] = {
    # files of any source
    "unreadable-image": "save the image again, or leave it out",
    "unreadable-mask": "save the mask again, or leave the pair out",
    "too-many-pixels": "save it smaller, or as JPEG, which is decoded at reduced size",
    "several-pages": "save the page that is meant as a file of its own",
    "unsupported-mode": "save it with 8 bits a channel",
    "transparent-image": "save it without its alpha channel",
    "bad-file-name": "rename the file with letters of UTF-8",
    "path-outside-root": "name files relative to the folder that holds the images",
    "size-mismatch": "the mask or the annotation must be of the picture as it is now",
    "turned-image": "save the picture upright, without EXIF orientation, or draw the mask on the upright one",
    "leaks-into-test": "nothing is to be done: the rest of the set is used",
    "repeated-image": "give every picture one split; nothing is to be done where the first one will do",
    # masks
    "empty-mask": "a mask needs foreground: leave the sample out or draw it again",
    "faint-mask": "scale the mask so that its foreground reaches the largest value",
    "color-mask": "write one grey mask an object: 0 is background, 255 the object",
    "index-mask": "write one mask an object: 0 is background, any one other value the object",
    # folder
    **dict.fromkeys(
        ("image-without-mask", "mask-without-image"),
        "give mask and image the same name, but for the ending; in labels.csv name them from the folder that it lies in",
    ),
    "ambiguous-name": "rename one of them, or list the pairs in labels.csv",
    "label-missing": "put it into a sub-folder named after its class, or list it in labels.csv",
    "nested-folder": "move the files up into the folder of their class, or list them in labels.csv",
    "unused-folder": "the folders of splits are train/, val/ and test/, each with images/ and masks/, and nothing lies beside them",
    "not-an-image": "nothing is to be done if it is no image; else convert it to PNG",
    "single-sample-class": "add images, or leave the class out",
    # COCO
    "crowd": "regions of many objects are no samples; where a labelling tool flags single objects so, say data.keep_crowd=true",
    "too-small": "lower data.min_size, or use larger images",
    "truncated": "data.border=null keeps objects that touch the border",
    "overlapped": "data.max_overlap=1 keeps them all",
    "bad-segmentation": "export outlines: polygons or run-length codes for instance segmentation",
    "nan-box": "COCO: x, y, width, height, or no bbox, then the outline's is taken; GTSRB: corners in whole pixels",
    "box-mismatch": "bbox must be x, y, width, height in pixels of the image, and the outline lie in it",
    "box-outside-image": "the annotation must lie inside the image: was it made for a larger one?",
    "unknown-category": "category_id must be an id of the file's categories",
    "repeated-annotation": "annotate every object once, as one class",
    "annotation-without-image": "images are named from the folder of the table in GTSRB, and from that of data.parts in COCO",
    "ambiguous-image": "give every image an id and a file name of its own",
    "image-without-annotation": "nothing is to be done if it is not meant; data.classes says which classes are",
    # GTSRB
    "unknown-class": "classes are 0 to 42",
    "class-mismatch": "the folder and the column ClassId must agree",
    "untrained-class": "give the class training images, or nothing is to be done if it is not meant",
    "duplicate-annotation": "name every image once",
    "empty-box": "the ROI must have an area: Roi.X2 and Roi.Y2 are its last column and row, no width and height",
    "unknown-track": "training files are named TRACK_FRAME, or say the track in a column Group",
}
"""Every rule with what to do about it."""

NOTES: Mapping[str, str] = {
    "composited": "{count} of {total} pictures have transparent pixels, which were laid on white",
    "scaled": "{count} of {total} pictures have more than 8 bits and were scaled by the range of their mode",
    "turned": "{count} of {total} pictures were turned upright by their EXIF orientation",
    "turned-alone": "{count} of {total} pictures are turned by their EXIF orientation and their masks or outlines are not, and both"
    " ways fit: if these were drawn on the stored pixels they are wrong; look at preview=true",
    "grey-end": "{count} of {total} pictures are JPEG that ends in even grey, as what a damaged file has lost is shown: is all of"
    " them there? Look at preview=true",
    "border-foreground": "in {count} of {total} masks the border is foreground, and what lies within is not more so: are black and"
    " white exchanged? Background is 0, the object is not; look at preview=true",
    "filled-box": "in {count} of {total} masks the object is a filled box: oracle masks that are boxes tell where an object is, and"
    " not its outline; look at preview=true",
    "hollow": "in {count} of {total} masks the object encloses more than it covers: was its outline drawn, and not filled? Look at"
    " preview=true",
    "in-between": "in {count} of {total} masks most pixels are neither background nor object but in between: are these masks, or"
    " grey pictures (photographs, depth)? Look at preview=true",
    "filled-hole": "in {count} of {total} objects a polygon lies within a larger one of its object: is it a hole? COCO's format has"
    " none and fills it; write run lengths",
    "crossed": "in {count} of {total} objects the outline crosses itself, so that it covers other pixels than it encloses: are its"
    " points in the order in which they follow each other? Look at preview=true",
    "alike-mask": "{count} of {total} pictures have a mask that is, to the byte, the one of another picture: is each mask its own?",
    "shared-mask": "{count} of {total} pictures share their mask file with another picture",
    "alike-class": "{count} of {total} pictures are of classes whose names differ in capitals, spaces, dashes, unseen letters or"
    " the zeros of a number alone: is one class meant?",
    "two-classes": "{count} of {total} pictures are there under another class too, with another mask: without masks nothing tells"
    " them apart",
    "percent": "{count} of {total} objects lie within the first 100 pixels of larger pictures: are outlines and boxes in percent?"
    " Pixels are meant; look at preview=true",
    "size-for-corner": "in {count} of {total} signs the ROI lies in the middle if Roi.X2 and Roi.Y2 are its width and height, and"
    " askew as they are meant: its last column and row; look at preview=true",
    "off-center": "in {count} of {total} signs the ROI lies askew in its picture, and in GTSRB in the middle: is it that of another"
    " picture, of another size of it, or with x and y exchanged? Look at preview=true",
    "whole-roi": "in {count} of {total} signs the ROI is the whole picture, and in GTSRB there is a margin around it: a sign that"
    " does not fill its picture has a wrong mask; look at preview=true",
    "no-outline": "in {count} of {total} signs the picture shows no outline of the shape and color of its class where the ROI says"
    " (in GTSRB in less than 1 of 100): are classes, ROIs or colors those of others? Look at preview=true",
    "single-frame": "nearly every training image is a track of its own by its name (in GTSRB a track has 30): if some show one sign"
    " they may be trained on and tested; say the tracks in a column Group",
    "upper-left": "{count} of {total} objects are of a part in which none comes near the right or lower edge of its picture, and"
    " some begin at the other two: were pictures made larger after labelling, and outlines not? Look at preview=true",
    "twin": "{count} of {total} objects have another one in their place, of nearly the same outline: are objects listed twice?",
    "twin-class": "{count} of {total} objects have another one of another class in their place, of nearly the same outline: which"
    " it is is not known",
    "dropped-fragment": "{count} of {total} objects lost outlines of fewer than 3 points",
    "outline-box": "in {count} of {total} objects bbox is not the box of the outline (x0, y0, x1, y1 for x, y, width, height?);"
    " the outline's was taken",
}
"""By the name that a sample carries."""
_SHARE = {
    "border-foreground": 0.2,
    "filled-box": 0.1,
    "hollow": 0.2,
    "in-between": 0.1,
    "filled-hole": 0.01,
    "crossed": 0.01,
    "alike-mask": 0.05,
    "twin": 0.01,
    "twin-class": 0.01,
    "percent": 0.9,
    "size-for-corner": 0.5,
    "off-center": 0.2,
    "whole-roi": 0.5,
    "no-outline": 0.05,
}
"""Notes that say something only of more than this share of the samples."""


_OUTSIDE = 0.05
"""Objects outside of their pictures that are more than slips, as a share of all."""


def note_lines(counts: Mapping[str, int], total: int, rejects: Mapping[str, int]) -> list[str]:
    """What ``prepare`` and ``new`` print, one line a note: of the ``total`` samples that were taken, and what those that were not
    say of these."""
    lines = [
        NOTES[name].format(count=count, total=total)
        for name, count in sorted(counts.items())
        if count > _SHARE.get(name, 0.0) * total
    ]
    if count := rejects.get("unknown-category"):
        ids = "category_id that no category has: are objects and categories counted from the same number?"
        lines.append(f"{count} objects have a {ids} If not, the others have a wrong class")
    if (count := rejects.get("box-outside-image", 0)) > _OUTSIDE * (total + count):
        what = "were these made smaller after labelling? Then the others are wrong too"
        lines.append(f"{count} objects lie outside of their pictures: {what}")
    return lines
