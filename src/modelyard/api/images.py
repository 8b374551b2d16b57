"""Images as Ollama's clients send them: base64 without a type. The type is read from the first bytes. Pure."""

from __future__ import annotations

import base64
import binascii

from modelyard.errors import N_
from modelyard.types.chat import ImagePart

from .bodies import invalid

_HEAD_CHARS = 32
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


def image_part(text: str, where: str) -> ImagePart:
    """An inline image. Raises for what is no base64, or no image of a type we know."""
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        head = base64.b64decode(data[:_HEAD_CHARS] + "=" * (-len(data[:_HEAD_CHARS]) % 4), validate=True)
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(where, N_("it is not base64")) from None
    media_type = image_type(head)
    if media_type is None:
        raise invalid(where, N_("it is no image of a type we know: PNG, JPEG, GIF, WebP, BMP"))
    return ImagePart(media_type, data)


def image_type(head: bytes) -> str | None:
    """The media type of an image by how it begins.

    >>> image_type(b"GIF89a..."), image_type(b"RIFF\\x00\\x00\\x00\\x00WEBP"), image_type(b"<svg>")
    ('image/gif', 'image/webp', None)
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if head.startswith(magic)), None)
