"""Pictures from this machine's files, as parts of a question. What a file is, is for its first bytes to say."""

from __future__ import annotations

import base64
from pathlib import Path

from modelyard.errors import N_, BadRequest
from modelyard.types.chat import ImagePart

IMAGE_BYTES_MAX = 20 * 1024**2
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def read_image(path: Path) -> ImagePart:
    """Raises `BadRequest` if it is no picture that models take, too large, or not to be read."""
    try:
        if not path.is_file():
            raise BadRequest(N_("{path} is no file."), path=str(path))
        with path.open("rb") as file:
            raw = file.read(IMAGE_BYTES_MAX + 1)
    except OSError as problem:
        raise BadRequest(N_("{path} cannot be read: {problem}"), path=str(path), problem=problem.strerror) from problem
    if len(raw) > IMAGE_BYTES_MAX:
        raise BadRequest(N_("{path} is larger than {limit} MB."), path=str(path), limit=IMAGE_BYTES_MAX // 1024**2)
    kind = next((kind for magic, kind in _KINDS if raw.startswith(magic)), "")
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        kind = "image/webp"
    if not kind:
        raise BadRequest(N_("{path} is no PNG, JPEG, GIF or WebP picture."), path=str(path))
    return ImagePart(kind, base64.b64encode(raw).decode("ascii"))
