"""Makes the pictures of the README and the docs from those of `make demo`: python docs/pictures.py dlcv-demo."""

import sys
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parent / "images"
GAP, PAPER = 10, (255, 255, 255)
SHEETS = {
    # picture: height of a row in pixels, rows of the demo's overlays
    "segment.jpg": (300, (("segment/dog", "segment/bird"), ("segment/astronaut", "segment/car"))),
    "classify.jpg": (250, (("classify/cat", "classify/coffee"),)),
    "attend.jpg": (290, (("attend/horse",), ("attend/bird",), ("attend/deer",))),
    "streets.jpg": (300, (("streets/street_avenue", "streets/street_taxis"),)),
}


def sheet(rows: list[list[Image.Image]], *, height: int) -> Image.Image:
    """Return rows of pictures, each `height` pixels high, on white."""
    scaled = [[scaled_to(height, picture) for picture in row] for row in rows]
    width = max(sum(picture.width + GAP for picture in row) for row in scaled) - GAP
    canvas = Image.new("RGB", (width, len(rows) * (height + GAP) - GAP), PAPER)
    for number, row in enumerate(scaled):
        left = 0
        for picture in row:
            canvas.paste(picture, (left, number * (height + GAP)))
            left += picture.width + GAP
    return canvas


def scaled_to(height: int, picture: Image.Image) -> Image.Image:
    """Return a picture at another height in pixels, its sides in proportion."""
    width = round(picture.width * height / picture.height)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main(demo: Path) -> None:
    """Write the pictures. demo: the folder that `make demo` wrote."""
    for name, (height, rows) in SHEETS.items():
        paths = [
            [
                demo / Path(overlay).parent / "overlays" / f"{Path(overlay).name}.png"
                for overlay in row
            ]
            for row in rows
        ]
        overlays = [[Image.open(path).convert("RGB") for path in row] for row in paths]
        sheet(overlays, height=height).save(PICTURES / name, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
