"""What people type, as values; what does not fit is one sentence that names the option."""

from __future__ import annotations

from collections.abc import Sequence


def size_from_text(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) from text such as "224x224".

    Raises:
        InputError: the text is something else.
    """
    from dlcv.runtime.errors import InputError

    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f"--size must be height x width in pixels, such as 360x480, not {text!r}")
    return int(height), int(width)


def key_values(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """Return a mapping from texts KEY=VALUE, as `option` takes them.

    Raises:
        InputError: a text is something else.
    """
    from dlcv.runtime.errors import InputError

    values = {}
    for text in pairs or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"{option} takes KEY=VALUE, not {text!r}")
        values[key] = value
    return values
