"""Saving and loading: the same outputs to the bit, and one line for everything else."""

import keras
import numpy as np
import pytest
from networks import tiny_hrnet

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models import build_backbone, build_dekr, load_model, save_model
from dekr_tf.sidecar import Sidecar, sidecar_path

STICK = {"name": "stick", "names": ["top", "end"]}
TINY = tiny_hrnet(8)
CONFIG = Config(keypoints=STICK, model=TINY)
SIDECAR = Sidecar.from_config(CONFIG)

pytestmark = pytest.mark.slow


def build_random(config):
    model = build_dekr(config.model, config.schema)
    for variable in model.variables:
        variable.assign(variable + 0.01 * np.random.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(1)
    return build_random(CONFIG)


def assert_same(model, expected):
    image = np.random.standard_normal((1, 32, 64, 3)).astype(np.float32)
    maps, wanted = model(image), expected(image)
    assert set(maps) == set(wanted) == {"heatmap", "offset"}
    for name, value in wanted.items():
        np.testing.assert_array_equal(maps[name], value)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_outputs_are_the_same_to_the_bit(tiny, tmp_path, suffix):
    path = tmp_path / "new" / f"tiny{suffix}"
    save_model(tiny, path, SIDECAR)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.json"]
    model, sidecar = load_model(str(path))
    assert sidecar == SIDECAR
    assert_same(model, tiny)


def test_a_compact_file_holds_half_floats_and_the_settings(tiny, tmp_path):
    path = tmp_path / "tiny.weights.npz"
    save_model(tiny, path, SIDECAR)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    model, sidecar = load_model(path)
    assert sidecar == SIDECAR
    for variable, other in zip(model.variables, tiny.variables, strict=True):
        np.testing.assert_array_equal(np.array(variable), np.array(other).astype(np.float16).astype(np.float32))
    # Each value takes two bytes, the names and settings some more.
    assert path.stat().st_size < 2 * tiny.count_params() + 400 * len(tiny.variables)


def test_a_compact_file_needs_settings_and_holds_large_variances(tmp_path):
    model = build_random(CONFIG)
    with pytest.raises(InputError, match="the model has no settings"):
        save_model(model, tmp_path / "tiny.weights.npz")
    assert not list(tmp_path.iterdir())
    variance = np.linspace(1, 7e4, 64, dtype=np.float32)
    model.get_layer("stem_1_bn").moving_variance.assign(variance)
    save_model(model, tmp_path / "tiny.weights.npz", SIDECAR)
    again, _ = load_model(tmp_path / "tiny.weights.npz")
    np.testing.assert_array_equal(again.get_layer("stem_1_bn").moving_variance, variance)


def test_a_compact_file_of_another_network_is_refused(tiny, tmp_path):
    save_model(tiny, tmp_path / "tiny.weights.npz", SIDECAR)
    config = Config(keypoints=STICK, model={**TINY, "blocks": 2})
    with pytest.raises(InputError, match=r"is not a DEKR of these settings, or it is damaged: the weight .* is in one"):
        load_model(tmp_path / "tiny.weights.npz", config)
    (tmp_path / "tiny.weights.npz").write_bytes((tmp_path / "tiny.weights.npz").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"tiny\.weights\.npz"):
        load_model(tmp_path / "tiny.weights.npz")


def test_a_config_replaces_the_sidecar(tiny, tmp_path):
    save_model(tiny, tmp_path / "tiny.weights.h5")
    assert not sidecar_path(tmp_path / "tiny.weights.h5").exists()
    config = CONFIG.model_copy(update={"input_size": 96})
    model, sidecar = load_model(tmp_path / "tiny.weights.h5", config)
    assert sidecar.input_size == 96
    assert_same(model, tiny)


def test_a_model_saved_in_mixed_precision_stays_so(tmp_path):
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = build_random(CONFIG)
        save_model(model, tmp_path / "half.keras", SIDECAR)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    again, _ = load_model(tmp_path / "half.keras")
    assert again.get_layer("stem_1_conv").compute_dtype == "float16"
    assert again.get_layer("heatmap").compute_dtype == "float32"
    assert_same(again, model)


@pytest.mark.parametrize("path", ["model.h5", "model", "model.pth", "model.keras.zip"])
def test_other_suffixes(tiny, tmp_path, path):
    for call in (lambda: save_model(tiny, tmp_path / path), lambda: load_model(tmp_path / path)):
        with pytest.raises(InputError, match=rf"ends in .keras, .weights.h5 or .weights.npz. Received: .*{path}$"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_there(tiny, tmp_path):
    with pytest.raises(InputError, match=r"no such model: .*gone.keras$"):
        load_model(tmp_path / "gone.keras")
    save_model(tiny, tmp_path / "tiny.weights.h5")
    with pytest.raises(InputError, match=r"tiny.weights.h5 has no sidecar; expected its settings in .*.h5.json$"):
        load_model(tmp_path / "tiny.weights.h5")


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_damaged_files(tiny, tmp_path, suffix):
    path = tmp_path / f"tiny{suffix}"
    save_model(tiny, path, SIDECAR)
    whole = path.read_bytes()
    middle = len(whole) // 2
    holed = whole[:2000] + b"x" * middle + whole[2000 + middle :]
    for content in (b"", whole[:1000], whole[:-100], holed):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"tiny{suffix} is not a DEKR of these settings, or it is damaged") as e:
            load_model(path)
        assert "\n" not in str(e.value)
        assert "File not found" not in str(e.value)


def test_models_of_other_kinds(tmp_path):
    features = keras.Input((4,))
    dense = keras.Model(features, keras.layers.Dense(3)(features))
    for model in (dense, build_backbone(CONFIG.model)):
        save_model(model, tmp_path / "other.keras", SIDECAR)
        with pytest.raises(InputError, match=r"skeleton stick needs output channels {.*}. Received: no named outputs$"):
            load_model(tmp_path / "other.keras")


def test_settings_of_another_model(tiny, tmp_path):
    save_model(tiny, tmp_path / "tiny.keras")
    with pytest.raises(InputError, match=r"'heatmap': 18, 'offset': 34}. Received: {'heatmap': 3, 'offset': 4}$"):
        load_model(tmp_path / "tiny.keras", Config())
    save_model(tiny, tmp_path / "tiny.weights.h5")
    wider = Config(keypoints=STICK, model={**TINY, "width": 16})
    with pytest.raises(InputError, match="is not a DEKR of these settings"):
        load_model(tmp_path / "tiny.weights.h5", wider)


def test_code_in_a_file_is_not_run(tmp_path):
    features = keras.Input((4,))
    model = keras.Model(features, keras.layers.Lambda(lambda x: x + 1)(features))
    save_model(model, tmp_path / "lambda.keras", SIDECAR)
    with pytest.raises(InputError, match="Lambda"):
        load_model(tmp_path / "lambda.keras")


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [("image_data_format", "channels_first", "channels_last"), ("floatx", "float64", "float32")],
)
def test_settings_of_keras_that_do_not_fit(tmp_path, setting, value, expected):
    getattr(keras.config, f"set_{setting}")(value)
    try:
        for make in (
            lambda: build_dekr(CONFIG.model, CONFIG.schema),
            lambda: build_backbone(CONFIG.model),
            lambda: load_model(tmp_path / "model.keras"),
        ):
            with pytest.raises(InputError, match=f"expected {expected} as {setting} of Keras .* Received: {value}$"):
                make()
    finally:
        getattr(keras.config, f"set_{setting}")(expected)
