"""What a file is that cannot be read as an image, and what would make an image of it."""

from pathlib import Path

from PIL import features

_HEIC = "HEIC, which Pillow cannot read: export it as JPEG, or convert it (heif-convert IN.heic OUT.jpg)"
_AVIF = "AVIF, which this Pillow cannot read: install Pillow 11.3 or later, or convert it to PNG or JPEG"
_JXL = "JPEG XL, which Pillow cannot read: convert it (djxl IN.jxl OUT.png)"
_TIFF = (
    "a TIFF that is damaged, or of pixels that Pillow cannot read (channels of floating point, bands that are not said to"
    " be colors): save it as grey or RGB with 8 bits a channel"
)
_VECTOR = "a drawing without pixels: export it as PNG"
_ARRAY = "a NumPy array: save it as PNG"
_RAW = "a camera's raw file: export it as JPEG"
_VIDEO = "a video: export its frames as PNG"
_BY_SUFFIX = {
    **dict.fromkeys((".heic", ".heif", ".hif"), _HEIC),
    **dict.fromkeys((".avif", ".avifs"), _AVIF),
    ".jxl": _JXL,
    **dict.fromkeys((".npy", ".npz"), _ARRAY),
    **dict.fromkeys((".svg", ".ai", ".eps", ".ps", ".pdf", ".wmf", ".emf"), _VECTOR),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), _RAW),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"), _VIDEO),
}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), _HEIC),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
}
_BEGINNINGS = {
    b"%PDF": _VECTOR,
    b"%!PS": _VECTOR,
    b"<svg": _VECTOR,
    **dict.fromkeys((b"II*\0", b"MM\0*"), _TIFF),
    **dict.fromkeys((b"\xff\n", b"\0\0\0\x0cJXL "), _JXL),
    b"GIF8": "a GIF that is cut short",
    b"\x89HDF": "HDF5: export its pictures as PNG",
    b"\x93NUMPY": _ARRAY,
    b"PK\x03\x04": "a zip archive: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with git lfs pull",
}


def describe(path: Path) -> str:
    """One line on a file that no image reader knows. Raises OSError where it cannot be read."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp":
        kind = _BRANDS.get(head[8:12], _VIDEO)
        return "it is a damaged AVIF" if kind == _AVIF and features.check("avif") else f"it is {kind}"
    for beginning, kind in _BEGINNINGS.items():
        if head.lstrip().startswith(beginning):
            return f"it is {kind}"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return f"it is text and no image (it begins with {head[:20].decode(errors='replace')!a})"
    return "it is no image, or damaged at its beginning"


def no_folder(path: Path) -> str:
    """What is to be said of a path that was to be a folder and is none."""
    archive = "; it is an archive: unpack it" if path.suffix.lower() in _ARCHIVES else ""
    return f"is no folder{archive}" if path.exists() else "does not exist"


def remedy_of(suffix: str) -> str:
    """What files of an ending are and what to do with them; empty where there is nothing to say."""
    return _BY_SUFFIX.get(suffix.lower(), "")
