import numpy as np
import pytest

from dlcv.runtime.errors import InputError
from dlcv.train.figures.curves import curves_figure, read_log

HEADER = "accuracy,epoch,loss_epoch,loss_step,step,train_accuracy_epoch,val_loss\n"
FIRST = f"{HEADER},0,,3.0,0,,\n0.5,0,,,1,,1.5\n,0,2.5,,1,0.4,\n,1,,9.0,2,,\n"
SECOND = f"{HEADER},1,,2.0,2,,\n0.7,1,,,3,,1.0\n,1,2.0,,3,0.6,\n"


@pytest.fixture
def run(tmp_path):
    """A run that was stopped in its second epoch and resumed."""
    for version, text in enumerate((FIRST, SECOND)):
        folder = tmp_path / f"log/version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    return tmp_path


def values(run, name):
    return [(e.epoch, e.step, e.value) for e in read_log(run) if e.name == name]


def test_of_a_resumed_run_the_later_log_counts(run):
    assert values(run, "loss_step") == [(1, 0, 3.0), (2, 2, 2.0)]
    assert values(run, "accuracy") == [(1, 1, 0.5), (2, 3, 0.7)]


def test_curves_show_training_and_validation_by_epoch(run):
    loss, score = curves_figure(read_log(run), title="toy", by="epoch").axes
    drawn = {line.get_label(): np.array(line.get_xydata()).tolist() for line in loss.lines}
    assert drawn == {"training": [[1, 2.5], [2, 2.0]], "validation": [[1, 1.5], [2, 1.0]]}
    assert [np.array(line.get_xydata()).tolist() for line in score.lines] == [
        [[1, 0.4], [2, 0.6]],
        [[1, 0.5], [2, 0.7]],
    ]


def test_curves_by_step_show_every_logged_step(run):
    loss = curves_figure(read_log(run), title="toy", by="step").axes[0]
    assert np.array(loss.lines[0].get_xydata()).tolist() == [[0, 3.0], [2, 2.0]]
    assert loss.get_xlabel() == "optimizer step"


def test_a_run_without_a_log_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no log"):
        read_log(tmp_path)


def test_a_damaged_log_is_refused(run):
    (run / "log/version_1/metrics.csv").write_text("epoch,step,loss_step\n0,0,much\n")
    with pytest.raises(
        InputError, match=r"version_1.metrics.csv is not the log of a run: could not"
    ):
        read_log(run)
