"""Seeds from names: what is drawn for a sample depends on what it is, and not on when."""

import hashlib


def sample_seed(*parts: str | int) -> int:
    """63 bits that depend on the parts alone, on any machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
