"""What the C library does with freed memory: on the CPU, every step of an attack frees the same pages and asks for them again."""

import ctypes
import os
import sys

# The parameters of mallopt(3) and the environment variables that set the same.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
_NEVER_TRIM = -1
_TOP_PAD_BYTES = 64 * 1024**2
_LARGEST_INT = 2**31 - 1


def keep_freed_pages() -> bool:
    """Ask glibc to keep freed memory for the next request and not to return it to the system. True where it agreed.

    By default glibc returns every freed block of more than 32 MiB at once (an activation of 32 images, 64 channels and 64 x 64
    pixels is that large), and in the next step the kernel clears the same pages again. The price: until it ends, the process
    holds the most memory that it ever needed, which matters to its neighbors on the machine and to no result.

    It acts on the whole process from now on, so it is for programs to call and not for libraries. Other C libraries (macOS, musl)
    are left alone, and so are users who have set glibc's own variables (``MALLOC_TRIM_THRESHOLD_`` ...). To repeat it is harmless.
    """
    if sys.platform != "linux" or any(variable in os.environ for variable in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Before glibc 2.35 the threshold has an upper limit; there, no request may be served by mmap at all.
    large_blocks = mallopt(_MMAP_THRESHOLD, _LARGEST_INT) or mallopt(_MMAP_MAX, 0)
    return bool(large_blocks and mallopt(_TRIM_THRESHOLD, _NEVER_TRIM) and mallopt(_TOP_PAD, _TOP_PAD_BYTES))
