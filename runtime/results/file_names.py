"""Names of result files from names of images, whatever the file system allowed in those."""

from __future__ import annotations

import hashlib
import os

_MAX_BYTES = 255  # of one name, on all common file systems
_DIGEST_CHARACTERS = 12


def path_from_name(name: str, suffix: str, *, attempt: int = 0) -> str:
    """Return the relative path of a file that is made from an image's name; it never leaves its folder.

    A plain name is kept: `a/b` with `.png` is `a/b.png`. Where something had to change (`..`, `:`, a name that is too
    long, a folder that is named like a result file), `~` and a digest of the whole name come before the suffix, so
    that two names never give one path. attempt: above 0 for another path of the same name.
    """
    *folders, last = _parts(name) or ["image"]
    folders = [_fitted(f, end="~" if f.lower().endswith(suffix) else "") for f in folders]
    plain = "/".join([*folders, last])
    if plain == name and not attempt and _bytes(last + suffix) <= _MAX_BYTES:
        return plain + suffix
    text = f"{attempt}\0{name}" if attempt else name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    end = f"~{digest[:_DIGEST_CHARACTERS]}{suffix}"
    return "/".join([*folders, _fitted(last, end=end)])


def _parts(name: str) -> list[str]:
    """Return the components of a name, in characters that a file's name may have."""
    text = "".join(c if _may_be_in_a_name(c) else "_" for c in name)
    return ["__" if part == ".." else part for part in text.split("/") if part not in ("", ".")]


def _may_be_in_a_name(character: str) -> bool:
    if character in "\0:":
        return False
    return character.isascii() or _is_encodable(character)


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, or a letter that the locale lacks
        return False
    return True


def _fitted(text: str, *, end: str) -> str:
    """Return the text, shortened until it and its end are a name."""
    while _bytes(text + end) > _MAX_BYTES:
        text = text[:-1]
    return text + end


def _bytes(text: str) -> int:
    return len(os.fsencode(text))
