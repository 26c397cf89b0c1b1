"""Objects of MS-COCO, cropped with their masks."""
