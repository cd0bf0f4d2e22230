"""What the decoders below us say by themselves: this process is ours, so it is silenced here, never in the library."""

from __future__ import annotations

import ctypes
import logging
import warnings
from contextlib import suppress


def quiet_decoders() -> None:
    """Keep lines off stderr that name no file; a file that cannot be read is refused with its name and the reason.

    Pillow warns of what it repairs, such as a damaged EXIF block, and logs some faults. The libtiff inside it prints
    each of its errors, though Pillow reports them too; of its warnings Pillow itself wants no word.
    """
    from PIL import Image, _imaging

    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Found through Pillow's own module, which is linked with it. Windows' Pillow holds a libtiff that nobody can reach.
    with suppress(AttributeError, OSError):
        pillow = ctypes.CDLL(_imaging.__file__)
        for setter in (pillow.TIFFSetErrorHandler, pillow.TIFFSetErrorHandlerExt):
            setter.restype = ctypes.c_void_p
            setter(None)
