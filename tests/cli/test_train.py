"""`dekr train`: what reaches the training. Whole runs are in test_chain.py."""

import pytest

from dekr_tf.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(monkeypatch):
    """What the training was asked for."""
    calls = []

    def train(config, output, *, resume):
        calls.append((config, output, resume))

    monkeypatch.setattr("dekr_tf.training.trainer.train", train)
    return calls


def test_settings_reach_the_training(asked, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: {width: 8}\ntraining: {epochs: 7, batch_size: 3}")
    words = ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "run")]
    assert main(["train", *words, "training.epochs=2", "model.offset_head.block=plain"]) == 0
    assert capsys.readouterr() == ("", "")
    ((config, output, resume),) = asked
    assert not resume
    assert output == tmp_path / "run"
    assert (config.training.epochs, config.training.batch_size, config.model.width) == (2, 3, 8)
    assert config.model.offset_head.block == "plain"
    assert not output.exists()


def test_going_on_is_asked_for(asked, tmp_path):
    (tmp_path / "config.yaml").touch()
    words = ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "run")]
    assert main(["train", *words, "--resume"]) == 0
    assert asked[0][2]


def test_bad_settings_start_no_training(asked, tmp_path, capsys):
    (tmp_path / "config.yaml").touch()
    words = ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "run")]
    assert main(["train", *words, "training.epochs=0"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dekr train: error: ") and errors.endswith("Received: 0\n") and errors.count("\n") == 1
    assert asked == []


def test_a_training_without_data_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").touch()
    assert main(["train", "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "dekr train: error: training needs data.train_annotations and data.train_images, data.train_records, "
        "or data.train. Received: a config without\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
