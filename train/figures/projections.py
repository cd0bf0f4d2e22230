"""Two-dimensional projections of embeddings: PCA and t-SNE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcv.train.figures.embeddings import Embeddings, embeddings_of_run
from dlcv.train.figures.request import Drawn, Request
from dlcv.train.figures.scatter import Panel, scatter_figure
from dlcv.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlcv.runtime.results import Float32

_PERPLEXITY = 30.0  # scikit-learn's default; van der Maaten and Hinton recommend 5 to 50
_FIRST_DIMENSIONS = 50
_SEED = 0


def draw_pca(request: Request) -> Drawn:
    """Yield a PCA plot of the second-last layer."""
    return _drawn("pca", "PCA", request, project=pca_panel)


def draw_tsne(request: Request) -> Drawn:
    """Yield a t-SNE plot of the second-last layer."""

    def project(found: Embeddings) -> Panel:
        request.tell(f"t-SNE of {len(found.points):,} points, {found.title}")
        return tsne_panel(found)

    return _drawn("tsne", "t-SNE", request, project=project)


def pca_panel(found: Embeddings) -> Panel:
    """Return the first two principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, random_state=_SEED)
    points = pca.fit_transform(found.points)
    first, second = (
        f"component {number}: {share:.1%} of the variance"
        for number, share in enumerate(pca.explained_variance_ratio_, start=1)
    )
    return Panel(title=found.title, points=points, xlabel=first, ylabel=second)


def tsne_panel(found: Embeddings) -> Panel:
    """Return the t-SNE of at most 50 principal components, initialised with the first two.

    van der Maaten and Hinton 2008, https://www.jmlr.org/papers/v9/vandermaaten08a.html, use 30 components and a
    random start; starting from components preserves the global structure (Kobak and Berens 2019,
    https://doi.org/10.1038/s41467-019-13056-x).
    """
    from sklearn.manifold import TSNE

    points = _first_components(found.points)
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=_SEED)
    return Panel(title=found.title, points=tsne.fit_transform(points))


def _drawn(
    name: str, words: str, request: Request, *, project: Callable[[Embeddings], Panel]
) -> Drawn:
    found, labels, names = embeddings_of_run(request)
    recipe = request.final.recipe
    what = "the second-last layer" if isinstance(recipe, Recipe) else "the embedding"
    title = f"{recipe.name}: {words} of {what}, {len(labels):,} test images"
    panels = [project(one) for one in found]
    yield name, scatter_figure(panels, labels, names, title=title)


def _first_components(points: Float32) -> Float32:
    from sklearn.decomposition import PCA

    count = min(_FIRST_DIMENSIONS, *points.shape)
    reduced: Float32 = PCA(n_components=count, random_state=_SEED).fit_transform(points)
    return reduced
