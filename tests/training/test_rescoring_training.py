"""The rescoring net learns what there is to learn, the same every time."""

from dataclasses import replace

import numpy as np
import pytest

from dekr_tf.errors import InputError, TrainingError
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.training.rescoring import train_rescoring_net
from dekr_tf.training.rescoring_samples import RescoringSamples

BOW = KeypointSchema(name="bow", names=("a", "b", "c"), edges=((0, 1), (1, 2)), normalization_edges=((0, 1),))

pytestmark = pytest.mark.slow


def draw(count, seed):
    """Poses whose OKS is the mean keypoint score, halved where c is right of a."""
    random = np.random.default_rng(seed)
    keypoints = np.concatenate([random.uniform(0, 200, (count, 3, 2)), random.random((count, 3, 1))], axis=-1)
    keypoints[:, 1, :2] = keypoints[:, 0, :2] + random.choice([-50, 50], (count, 2))
    right = keypoints[:, 2, 0] > keypoints[:, 0, 0]
    oks = keypoints[:, :, 2].mean(axis=1) * np.where(right, 0.5, 1)
    return RescoringSamples(BOW, keypoints.astype(np.float32), oks.astype(np.float32))


def test_learns_a_function_of_geometry_and_scores():
    net = train_rescoring_net(draw(2000, 1), batch_size=128, learning_rate=3e-3, seed=3)
    unseen = draw(500, 2)
    error = np.square(net.predict_oks(unseen.keypoints) - unseen.oks).mean()
    # Scores or geometry alone explain about half.
    assert error < 0.1 * unseen.oks.var()


def test_the_seed_decides_all():
    samples = draw(100, 1)
    nets = [train_rescoring_net(samples, epochs=2, seed=seed) for seed in (5, 5, 6)]
    same = [np.array_equal(nets[0].layers[0][0], net.layers[0][0]) for net in nets]
    assert same == [True, True, False]
    assert nets[0].schema is BOW
    assert [kernel.shape for kernel, _ in nets[0].layers] == [(9, 256), (256, 256), (256, 1)]


def test_the_loss_of_every_epoch_is_printed(capsys):
    samples, validation = draw(100, 1), draw(40, 2)
    net = train_rescoring_net(samples, validation, epochs=3, seed=5, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    loss = np.square(net.predict_oks(validation.keypoints) - validation.oks).mean()
    assert float(lines[-1].split("val_loss ")[1]) == pytest.approx(loss, abs=1.1e-5)
    # Looking at the validation poses changes nothing.
    again = train_rescoring_net(samples, epochs=3, seed=5)
    np.testing.assert_array_equal(net.layers[2][0], again.layers[2][0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: expected a positive number. Received: 0"),
        ({"batch_size": -1}, "batch size: expected a positive number. Received: -1"),
        ({"learning_rate": float("nan")}, "learning rate: expected a positive number. Received: nan"),
        ({"seed": -1}, "seed: expected a number of 0 to .* Received: -1"),
        (
            {"validation": RescoringSamples(replace(BOW, edges=((0, 1),)), np.zeros((1, 3, 3)), np.zeros(1))},
            "expected validation poses of the skeleton bow, .* Received: bow, which differs",
        ),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(InputError, match=message):
        train_rescoring_net(draw(20, 1), **settings)


def test_a_loss_that_is_not_finite():
    with pytest.raises(TrainingError, match=r"expected a finite loss; .* Received: nan"):
        train_rescoring_net(draw(20, 1), learning_rate=1e30, epochs=5)
