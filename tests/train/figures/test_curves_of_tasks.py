"""Curves show the scores of every task."""

import pytest

from dlcv.train.figures.curves import Entry, curves_figure


def entries(**scores: float) -> list[Entry]:
    return [
        Entry(name=name, epoch=epoch, step=epoch, value=value)
        for name, value in {"loss_epoch": 1.0, **scores}.items()
        for epoch in (1, 2)
    ]


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ({"probe_accuracy": 0.4}, ["linear probe"]),
        (
            {"cider": 1.2, "bleu4": 0.1, "remembered": 0.5},
            ["validation, CIDEr", "training photos remembered"],
        ),
        ({"accuracy": 0.4, "train_accuracy_epoch": 0.3}, ["training", "validation"]),
    ],
)
def test_curves_show_the_scores_of_the_task(scores: dict[str, float], labels: list[str]) -> None:
    figure = curves_figure(entries(**scores), title="a run", by="epoch")
    loss, score = figure.axes
    assert score.get_legend_handles_labels()[1] == labels
    assert score.get_ylim()[1] >= max(scores.values())
    assert figure.get_suptitle() == "a run"
    assert ("cos" in loss.get_ylabel()) == ("probe_accuracy" in scores)
