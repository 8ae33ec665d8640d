"""Hashes of plain data, as run ids, cache keys and seals use them."""

import hashlib
import json
from typing import Any


def content_hash(content: Any) -> str:
    """Return the SHA-256 of plain data written as canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
