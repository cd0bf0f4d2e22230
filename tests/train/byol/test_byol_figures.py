"""A run of BYOL has curves and maps of its embeddings; what does not fit it is said."""

from dlcv.train.figures.report import draw_figures
from dlcv.train.figures.request import Request
from dlcv.train.fit import fit


def test_what_fits_is_drawn(new_byol, toy_data, tmp_path):
    fit(new_byol(), toy_data, out=tmp_path / "run")
    lines = list(draw_figures(Request(run=tmp_path / "run", root=toy_data, out=tmp_path)))
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"curves-epoch", "curves-step", "pca", "tsne", "filters"}
    assert "skipped confusion: not drawn of runs of task byol" in lines
