"""What an annotation file is that is no COCO instances file, and how to make one of it."""

import re
from pathlib import Path

HEAD = 1 << 18
EXPECTED = "a COCO file of kind instances_*.json is expected"
_SIGNS: tuple[tuple[str, str], ...] = (
    (r"\A\s*(?i:<!doctype html|<html)", "a page of the web (a log-in, an error): fetch the file again"),
    (r"\Aversion https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (r"\A\0+\Z", "zeros alone: a copy or download that was broken off"),
    (r"\A\s*<", "XML (CVAT, Pascal VOC): export as COCO 1.0"),
    (r'"segments_info"\s*:', "a panoptic file: convert it with panoptic2detection_coco_format.py of panopticapi"),
    (r'"_via_(settings|img_metadata)"\s*:', "a project of VIA: Annotation > Export Annotations (COCO format)"),
    (r'"regions"\s*:\s*[\[{].*"shape_attributes"\s*:', "annotations of VIA: Annotation > Export Annotations (COCO format)"),
    (r'"shapes"\s*:\s*\[.*"imagePath"\s*:', "a file of labelme, one an image: convert the folder with labelme2coco"),
    (r'"imagePath"\s*:.*"shapes"\s*:\s*\[', "a file of labelme, one an image: convert the folder with labelme2coco"),
    (r'"project"\s*:\s*\{\s*"pid"', "a project of VIA 3: convert it to COCO"),
    (r'"categories"\s*:\s*\{\s*"label"\s*:', "an export of Datumaro: export as COCO 1.0"),
    (r'"(completed_by|original_width|predictions)"\s*:', "an export of Label Studio in its own format: export as COCO with images"),
    (r'"(data_row|External ID)"\s*:', "an export of Labelbox: convert it to COCO with its SDK"),
    (r'"classTitle"\s*:', "a file of Supervisely: export as COCO"),
    (r'"polygon"\s*:\s*\{\s*"paths?"', "an export of V7 Darwin in its own format: export as COCO"),
    (
        r'"(stability_score|predicted_iou)"\s*:',
        "masks of SAM, without classes: write one COCO file, with categories",
    ),
    (r'"imgHeight"\s*:.*"objects"\s*:', "a file of Cityscapes, one an image: convert the folder to COCO"),
    (r'"poly2d"\s*:', "labels of BDD100K: convert them to COCO"),
    (r'"vertices"\s*:\s*\[', "an export of Scale: convert it to COCO"),
    (r'"coordinates"\s*:\s*\{\s*"(x|y|width|height)"', "CreateML, which has boxes alone: draw outlines, and export as COCO"),
    (r'"_cls"\s*:', "a data set of FiftyOne in its own format: export it as COCODetectionDataset"),
    (r'"(data_units|label_hash)"\s*:', "an export of Encord in its own format: export as COCO"),
    (r'"label_classes"\s*:', "an export of Hasty in its own format: export as COCO"),
    (r'"ground-truth"\s*:', "a release of Segments.ai: export it as coco-instance"),
    (r'"FeatureCollection"', "GeoJSON: convert it to COCO"),
    (
        r'\A\s*\[.*"(score|image_id)"\s*:',
        "a results file, a bare list of predictions without images and categories: give the ground truth",
    ),
    (r'"caption"\s*:', "a captions file, without outlines: instances_*.json has them"),
    (r"\A[\d.\s-]+\Z", "text of YOLO: convert it to COCO"),
)


def recognize(path: Path) -> str:
    """The second half of a sentence on a file that cannot be read as COCO: what it looks like, or what is expected."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return EXPECTED
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "it is UTF-16: save it as UTF-8"
    if head[:2] in (b"\x1f\x8b", b"PK"):
        return "it is compressed: unpack it"
    text = head.decode("utf-8", errors="replace").removeprefix("\ufeff")
    for sign, kind in _SIGNS:
        if re.search(sign, text, re.DOTALL):
            return f"it looks like {kind}"
    return f"{EXPECTED}; is the file complete?"
