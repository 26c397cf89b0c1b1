"""What is to be said of a whole set where one file cannot tell: counted over the samples that were taken."""

from collections.abc import Mapping

NOTES: Mapping[str, str] = {
    "composited": "{count} of {total} pictures have transparent pixels, which were laid on white",
    "scaled": "{count} of {total} pictures have more than 8 bits and were scaled by the range of their mode",
    "turned": "{count} of {total} pictures were turned upright by their EXIF orientation",
    "turned-alone": "{count} of {total} pictures are turned by their EXIF orientation and their masks are not, and both ways fit:"
    " if the masks were drawn on the stored pixels they are wrong; look at preview=true",
    "border-foreground": "in {count} of {total} masks the border is foreground, and what lies within is not more so: are black and"
    " white exchanged? Background is 0, the object is not; look at preview=true",
    "shared-mask": "{count} of {total} pictures share their mask file with another picture",
    "dropped-fragment": "{count} of {total} objects lost outlines of fewer than 3 points",
    "outline-box": "in {count} of {total} objects bbox is not the box of the outline (x0, y0, x1, y1 for x, y, width, height?);"
    " the outline's was taken",
}
"""By the name that a sample carries."""
_SHARE = {"border-foreground": 0.5}
"""Notes that say something only of more than this share of the samples."""


def note_lines(counts: Mapping[str, int], total: int) -> list[str]:
    """What ``prepare`` prints, one line a note."""
    return [
        NOTES[name].format(count=count, total=total)
        for name, count in sorted(counts.items())
        if count > _SHARE.get(name, 0.0) * total
    ]
