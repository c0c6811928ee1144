"""What is exported is opened as a user opens it, and finds what the Keras model finds."""

import contextlib
import io
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers.table import Table
from networks import random_network, tiny_hrnet

from converters import to_tflite, verify
from converters.export import SUFFIXES, export_model, keras_detector, synthetic_photos
from converters.verify import TOLERANCES, Comparison, Tolerance, compare
from dekr_tf.config import Config, DecoderConfig
from dekr_tf.errors import InputError
from dekr_tf.inference.decoder import select_poses
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import POSES
from dekr_tf.inference.rescoring import RescoringNet
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Artifact, Sidecar, read_sidecar, sidecar_path

ROOT = Path(__file__).parents[2]
OLD_RUNTIME = ROOT / ".venv" / "tflite-runtime" / "bin" / "python"

TINY = tiny_hrnet(4)
LITE0 = {"backbone": "efficientnet_lite0", "pyramid_channels": 8}
MOBILENET = {"backbone": "mobilenet_v2", "heatmap_block": "separable", "heatmap_channels": 8}
ANIMAL = {
    "names": ["nose", "left", "right", "tail"],
    "flip_pairs": [["left", "right"]],
    "edges": [[0, 1], [0, 2], [0, 3]],
    "normalization_edges": [[0, 3]],
}

#: Pixels of the photo; scores.
COORDINATES, SCORES = 2e-3, 3e-5

PHOTOS = synthetic_photos(2)

pytestmark = pytest.mark.slow


def build(backbone=TINY, **decoder):
    config = Config(keypoints=ANIMAL, input_size=64, model=backbone, decoder=decoder)
    return random_network(config), Sidecar.from_config(config)


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.fixture(scope="module", params=[LITE0, MOBILENET], ids=lambda model: model["backbone"])
def small(request):
    return build(request.param)


def exporter(network, tmp_path_factory):
    """Exports a network once for each set of settings; returns the path."""
    made, converted = {}, {}
    convert = to_tflite.convert

    def convert_once(graph, sizes, input_type):
        """Converting takes seconds, and all precisions of a network begin with the same file."""
        key = str([[layer.name for layer in graph.layers], sizes, input_type])
        if key not in converted:
            converted[key] = convert(graph, sizes, input_type)
        return converted[key]

    def make(form, *, calibrate=False, **artifact):
        key = json.dumps([form, artifact])
        if key not in made:
            path = tmp_path_factory.mktemp("export") / ("model" + SUFFIXES[form])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(to_tflite, "convert", convert_once)
                export_model(*network, path, form, Artifact(**artifact), PHOTOS, calibrate=calibrate)
            made[key] = path
        return made[key]

    return make


@pytest.fixture(scope="module")
def export(network, tmp_path_factory):
    return exporter(network, tmp_path_factory)


@pytest.fixture(scope="module")
def export_small(small, tmp_path_factory):
    return exporter(small, tmp_path_factory)


@pytest.fixture
def any_difference(monkeypatch):
    """Random weights are no measure of what eight bits do to trained ones."""
    monkeypatch.setattr(verify, "TOLERANCES", dict.fromkeys(TOLERANCES, Tolerance(1e3, 1e3, 1.0)))


@pytest.mark.parametrize(
    ("form", "artifact"),
    [
        ("tflite", {"graph": "poses", "input_sizes": ((64, 96),)}),
        ("tflite", {"graph": "poses", "input_sizes": ((64, 64), (96, 64)), "input_type": "uint8"}),
        ("tflite", {"graph": "poses", "input_sizes": ((64, 64),), "flip": True}),
        ("tflite", {"graph": "poses", "input_sizes": ((64, 96),), "final": True}),
        ("tflite", {"graph": "maps", "input_sizes": ((64, 64),)}),
        ("onnx", {"graph": "poses"}),
        ("onnx", {"graph": "poses", "final": True, "flip": True}),
        ("onnx", {"graph": "maps", "input_sizes": ((64, 96),), "input_type": "uint8"}),
        ("saved_model", {"graph": "poses"}),
        ("saved_model", {"graph": "maps", "input_type": "uint8"}),
    ],
    ids=str,
)
def test_poses_are_those_of_keras(network, export, form, artifact):
    check_poses(export(form, **artifact), *network, artifact)


@pytest.mark.parametrize(
    ("form", "artifact"),
    [
        ("tflite", {"graph": "poses", "input_sizes": ((64, 96),)}),
        ("onnx", {"graph": "poses", "flip": True}),
    ],
    ids=str,
)
def test_poses_at_peaks_are_those_of_keras(tmp_path, form, artifact):
    network = build(peak_distance=0.2)
    path = tmp_path / ("model" + SUFFIXES[form])
    export_model(*network, path, form, Artifact(**artifact), PHOTOS, calibrate=False)
    check_poses(path, *network, artifact)
    if form == "tflite":
        check_forms_for_gpus(path)


def check_forms_for_gpus(path):
    """Gathers have one-dimensional indices, pads have three or four axes, TopK a multiple of four values."""
    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    shapes = {each["index"]: tuple(each["shape"]) for each in interpreter.get_tensor_details()}
    seen = {"GATHER": [], "PAD": [], "PADV2": [], "TOPK_V2": []}
    for operator in interpreter._get_ops_details():
        if operator["op_name"] in seen:
            seen[operator["op_name"]].append([shapes[index] for index in operator["inputs"]])
    assert {len(indices) for _, indices in seen["GATHER"]} == {1}
    assert {len(values) for values, *_ in seen["PAD"] + seen["PADV2"]} == {3, 4}
    assert {values[-1] % 4 for values, _ in seen["TOPK_V2"]} == {0}


@pytest.mark.parametrize(
    ("form", "artifact"),
    [
        ("tflite", {"graph": "maps", "input_sizes": ((64, 64),)}),
        ("onnx", {"graph": "poses"}),
    ],
    ids=str,
)
def test_poses_of_small_backbones_are_those_of_keras(small, export_small, form, artifact):
    check_poses(export_small(form, **artifact), *small, artifact)


def check_poses(path, model, sidecar, artifact):
    expected = keras_detector(model, sidecar.model_copy(update={"artifact": Artifact(**artifact)}))
    detector = PoseDetector(path)
    assert read_sidecar(path).artifact == Artifact(**artifact)
    for photo in PHOTOS:
        poses, other = expected(photo), detector(photo)
        assert len(poses) == len(other) > 3
        np.testing.assert_allclose(other.keypoints[..., :2], poses.keypoints[..., :2], atol=COORDINATES)
        scores = poses.keypoints[..., 2]
        np.testing.assert_allclose(other.keypoints[..., 2], scores, rtol=0, atol=SCORES * max(1, np.abs(scores).max()))


def test_a_file_of_final_poses_needs_no_code_of_ours(network, export):
    """Of the signature's outputs, `num_poses` poses are the people, best first, in pixels of the input."""
    path = export("tflite", graph="poses", input_sizes=((64, 96),), final=True)
    image = np.random.default_rng(0).normal(0, 1, (1, 64, 96, 3)).astype(np.float32)
    outputs = Interpreter(str(path)).get_signature_runner()(image=image)
    assert {name: values.shape for name, values in outputs.items()} == {
        "keypoints": (1, 30, 4, 3),
        "scores": (1, 30),
        "num_poses": (1,),
    }
    model, sidecar = network
    detector = PoseDetector(model, sidecar)
    expected = select_poses(*(values[0] for values in detector.engine.run(image)), sidecar.decoder)
    (count,) = outputs["num_poses"]
    assert count == len(expected) > 3
    np.testing.assert_allclose(outputs["keypoints"][0, :count], expected.keypoints, atol=COORDINATES)
    np.testing.assert_allclose(outputs["scores"][0, :count], expected.scores, rtol=1e-4)
    assert not outputs["keypoints"][0, count:].any()
    assert not outputs["scores"][0, count:].any()


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_rescoring_net_inside(network, tmp_path, form):
    """The net predicts a negative OKS for half of the people: they come last, but before the empty places."""
    model, sidecar = network
    sidecar = sidecar.model_copy(update={"decoder": DecoderConfig(keypoint_error=3.0)})
    generator = np.random.default_rng(0)
    shapes = (13, 8), (8, 8), (8, 1)
    layers = [(generator.normal(0, 0.5, shape), generator.normal(0, 0.1, shape[1])) for shape in shapes]
    artifact = Artifact(graph="poses", input_sizes=((96, 96),), input_type="uint8", final=True)
    exported = sidecar.model_copy(update={"artifact": artifact})
    found = keras_detector(model, exported)(PHOTOS[0])
    layers[2][1][:] -= np.median(RescoringNet(sidecar.schema, layers).predict_oks(found.keypoints))
    net = RescoringNet(sidecar.schema, layers)
    net.save(tmp_path / "net.npz")
    path = tmp_path / f"rescored.{form}"
    export_model(model, sidecar, path, form, artifact, PHOTOS, calibrate=False, rescore=tmp_path / "net.npz")
    expected, poses = net.rescore(found), PoseDetector(path)(PHOTOS[0])
    assert expected.scores[-1] < 0 < expected.scores[0]
    np.testing.assert_allclose(poses.keypoints, expected.keypoints, atol=COORDINATES)
    np.testing.assert_allclose(poses.scores, expected.scores, atol=1e-4)


def test_final_poses_are_not_decoded_again(export):
    path = export("tflite", graph="poses", input_sizes=((64, 96),), final=True)
    for options, received in (
        ({"nms_threshold": 0.1}, "a model of final poses takes no NMS threshold"),
        ({"rescore": "net.npz"}, "a model of final poses takes no NMS threshold and no rescoring net"),
        ({"match": True}, "or one that ends at the maps, for several scales or matching"),
        ({"scales": (1.0, 0.5)}, "or one that ends at the maps, for several scales or matching"),
        ({"flip": True}, "exported with --flip, for a flip test"),
    ):
        with pytest.raises(InputError, match=received):
            PoseDetector(path, **options)


def test_photos_go_through_a_tflite_model_one_by_one(export):
    detector = PoseDetector(export("tflite", graph="poses", input_sizes=((64, 96),)))
    for photo, poses in zip(PHOTOS, detector.detect_batch(PHOTOS), strict=True):
        np.testing.assert_array_equal(poses.keypoints, detector(photo).keypoints)


@pytest.mark.parametrize(
    ("form", "artifact"),
    [
        ("tflite", {"graph": "poses", "input_sizes": ((64, 64), (96, 64)), "input_type": "uint8"}),
        ("onnx", {"graph": "poses"}),
        ("saved_model", {"graph": "poses"}),
    ],
    ids=str,
)
def test_threads_may_share_a_detector(export, form, artifact):
    detector = PoseDetector(export(form, **artifact))
    photos = [*PHOTOS, *(np.ascontiguousarray(photo[:, ::-1]) for photo in PHOTOS), PHOTOS[0][:, :128]]
    expected = [detector(photo) for photo in photos]

    def ask(index):
        return np.array_equal(detector(photos[index % 5]).keypoints, expected[index % 5].keypoints)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [True] * 200


def test_a_flip_test_where_the_graph_ends_at_the_maps(network, export):
    path = export("tflite", graph="maps", input_sizes=((64, 64),))
    artifact = Artifact(graph="poses", input_sizes=((64, 64),), flip=True)
    model, sidecar = network
    expected = keras_detector(model, sidecar.model_copy(update={"artifact": artifact}))(PHOTOS[0])
    poses = PoseDetector(path, flip=True)(PHOTOS[0])
    np.testing.assert_allclose(poses.keypoints, expected.keypoints, atol=COORDINATES)


def test_the_size_in_which_a_photo_is_largest_is_taken(export):
    path = export("tflite", graph="poses", input_sizes=((64, 64), (96, 64)), input_type="uint8")
    detector = PoseDetector(path)
    assert detector.preprocessor(np.zeros((300, 200, 3), np.uint8))[1].size == (96, 64)
    assert detector.preprocessor(np.zeros((200, 300, 3), np.uint8))[1].size == (64, 64)


def test_a_tflite_file_carries_its_settings(export, tmp_path):
    path = export("tflite", graph="maps", input_sizes=((64, 64),))
    alone = tmp_path / "alone.tflite"
    alone.write_bytes(path.read_bytes())
    assert read_sidecar(alone) == read_sidecar(path)
    expected, poses = PoseDetector(path)(PHOTOS[0]), PoseDetector(alone)(PHOTOS[0])
    np.testing.assert_array_equal(poses.keypoints, expected.keypoints)
    with zipfile.ZipFile(alone) as archive:
        assert json.loads(archive.read("sidecar.json"))["artifact"]["graph"] == "maps"


def text(table, number):
    """A field of a flatbuffer's table."""
    return table.String(table.Offset(4 + 2 * number) + table.Pos).decode()


def tables(table, number):
    """The tables in a field."""
    field = table.Offset(4 + 2 * number)
    starts = table.Vector(field) + 4 * np.arange(table.VectorLen(field))
    return [Table(table.Bytes, table.Indirect(int(start))) for start in starts]


def metadata(path):
    """The model as an object, and the tables for its subgraphs, by the numbers of `metadata_schema.fbs`."""
    model = flatbuffer_utils.read_model(path)
    (entry,) = [each for each in model.metadata if each.name == b"TFLITE_METADATA"]
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    return model, tables(Table(content, int.from_bytes(content[:4], "little")), 3)


def test_a_tflite_file_carries_metadata(export):
    """They name the tensors of each size in the order in which the file has them."""
    path = export("tflite", graph="poses", input_sizes=((64, 64), (96, 64)), input_type="uint8")
    model, graphs = metadata(path)
    assert [text(graph, 0) for graph in graphs] == ["64x64", "96x64"]
    shapes = {"keypoints": [1, 30, 4, 2], "keypoint_scores": [1, 30, 4], "center_scores": [1, 30]}
    for graph, described in zip(model.subgraphs, graphs, strict=True):
        (image,), outputs = tables(described, 2), tables(described, 3)
        assert (text(image, 0), text(image, 1)[:13]) == ("image", "RGB, 0 to 255")
        assert not image.Offset(4 + 2 * 4)
        names = [text(output, 0) for output in outputs]
        assert [graph.tensors[index].shape for index in graph.outputs] == [shapes[name] for name in names]


def test_metadata_tell_the_normalization(export):
    """Of pixels from 0 to 255."""
    _, (graph,) = metadata(export("tflite", graph="poses", input_sizes=((64, 96),)))
    (unit,) = tables(tables(graph, 2)[0], 4)
    options = Table(unit.Bytes, unit.Indirect(unit.Offset(4 + 2) + unit.Pos))
    start = options.Vector(options.Offset(4))
    np.testing.assert_allclose(np.frombuffer(options.Bytes[start : start + 12], np.float32), [123.675, 116.28, 103.53])


def operators(path):
    """Counts of a model's operators, without those of delegates."""
    names = [each["op_name"] for each in Interpreter(str(path))._get_ops_details()]
    return {name: names.count(name) for name in set(names) if name != "DELEGATE"}


def test_batch_normalization_is_folded(export):
    counts = operators(export("tflite", graph="maps", input_sizes=((64, 64),)))
    assert not {"VAR_HANDLE", "READ_VARIABLE", "RSQRT", "MUL", "SUB"} & set(counts)


def test_maps_run_in_one_piece_on_the_delegate(export):
    check_one_piece(export("tflite", graph="maps", input_sizes=((64, 64),)))


def test_maps_of_small_backbones_run_in_one_piece_on_the_delegate(export_small):
    check_one_piece(export_small("tflite", graph="maps", input_sizes=((64, 64),)))


def check_one_piece(path):
    """No operator is left for LiteRT's own kernels, and TensorFlow's rules find none that a GPU would not take."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    operators = interpreter._get_ops_details()
    (delegate,) = [each for each in operators if each["op_name"] == "DELEGATE"]
    assert {each["index"] for each in interpreter.get_output_details()} <= set(delegate["outputs"])
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        tf.lite.experimental.Analyzer.analyze(model_content=path.read_bytes(), gpu_compatibility=True)
    assert "GPU COMPATIBILITY WARNING" not in report.getvalue()


def test_sizes_share_their_weights(export):
    one = export("tflite", graph="poses", input_sizes=((64, 96),)).stat().st_size
    two = export("tflite", graph="poses", input_sizes=((64, 64), (96, 64)), input_type="uint8").stat().st_size
    assert two < 1.5 * one


def constants(path, operator="CONV_2D"):
    """Types of the weights of a model's convolutions, and of its inputs and outputs."""
    interpreter = Interpreter(str(path))
    types = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    kernels = [types[each["inputs"][1]] for each in interpreter._get_ops_details() if each["op_name"] == operator]
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    return kernels, {each["dtype"] for each in ends}


@pytest.mark.parametrize("precision", ["float16", "dynamic_int8", "int8"])
def test_precisions(export, any_difference, precision):
    whole = export("tflite", graph="poses", input_sizes=((64, 96),))
    path = export("tflite", graph="poses", input_sizes=((64, 96),), precision=precision, calibrate=precision == "int8")
    assert path.stat().st_size < whole.stat().st_size
    kernels, ends = constants(path)
    assert ends == {np.float32}
    if precision != "float16":
        # The last convolution of the heatmap, and the offset head's, stay as they are.
        assert 0 < sum(each == np.float32 for each in kernels) < 6 < sum(each == np.int8 for each in kernels)
    expected, poses = PoseDetector(whole)(PHOTOS[0]), PoseDetector(path)(PHOTOS[0])
    between = np.linalg.norm(expected.keypoints[:, None, :, :2] - poses.keypoints[None, ..., :2], axis=-1).mean(axis=2)
    nearest = np.median(between.min(axis=1))
    assert 0 < nearest < (0.5 if precision == "float16" else 10)


@pytest.mark.parametrize("precision", ["float16", "dynamic_int8", "int8"])
def test_precisions_of_small_backbones(small, export_small, any_difference, precision):
    """In each the maps run in one piece on the delegate, which has no depthwise convolution for `dynamic_int8`."""
    path = export_small(
        "tflite", graph="maps", input_sizes=((64, 64),), precision=precision, calibrate=precision == "int8"
    )
    counts = operators(path)
    # The blocks', the pyramid's and the separable head's: 16 + 4 of EfficientNet, 17 + 3 + 1 of MobileNetV2.
    separable = small[1].model.heatmap_block == "separable"
    assert counts["DEPTHWISE_CONV_2D"] == 20 + separable
    names = [
        layer.name for layer in small[0].layers if layer.name.startswith(("pyramid_", "heatmap_")) and layer.weights
    ]
    depthwise = sum(name.endswith("_depthwise_conv") for name in names)
    kernels, _ = constants(path, "DEPTHWISE_CONV_2D")
    expected = 20 + separable - depthwise if precision == "int8" else 0
    assert sum(kernel == np.int8 for kernel in kernels) == expected
    kernels, _ = constants(path)
    if precision == "float16":  # An operator of its own widens the weights of each convolution.
        assert counts["DEQUANTIZE"] == counts["CONV_2D"] + counts["DEPTHWISE_CONV_2D"]
    else:
        # The pyramid's and the separable head's, the last one of the heatmap, and the one that enters the offset head.
        others = sum(name.endswith(("_lateral_conv", "_pointwise_conv")) for name in names)
        assert sum(kernel == np.float32 for kernel in kernels) == others + 2
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (delegate,) = [each for each in interpreter._get_ops_details() if each["op_name"] == "DELEGATE"]
    assert {each["index"] for each in interpreter.get_output_details()} <= set(delegate["outputs"])


def test_encoded_images_of_any_sizes(network, export):
    """Images that are sampled at whole pixels, since the graph does not round to 1/32 of a pixel as OpenCV does."""
    path = export("saved_model", graph="poses")
    detector = PoseDetector(path)
    images = [np.ascontiguousarray(PHOTOS[0][:64, :128]), np.ascontiguousarray(PHOTOS[1][:128])]
    files = [tf.io.encode_png(image).numpy() for image in images]
    poses = tf.saved_model.load(str(path)).signatures["encoded"](image_bytes=tf.constant(files))
    assert poses["keypoints"].shape == (2, 30, 4, 2)
    for image, *candidates in zip(images, *(poses[name].numpy() for name in POSES), strict=True):
        found = select_poses(*candidates, network[1].decoder)
        expected = detector(image)
        np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=COORDINATES)
        assert len(found) > 3


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime was made for Python 3.11 and older")
@pytest.mark.parametrize(
    ("precision", "graph"), [("float32", "poses"), ("float32", "maps"), ("float16", "poses"), ("int8", "poses")]
)
def test_the_retired_runtime(export, any_difference, tmp_path, precision, graph):
    """In an environment of its own with NumPy 1 and neither TensorFlow nor Keras."""
    size = (64, 64) if graph == "maps" else (64, 96)
    path = export("tflite", graph=graph, input_sizes=(size,), precision=precision, calibrate=precision == "int8")
    np.save(tmp_path / "photo.npy", PHOTOS[0])
    program = """
import json, sys
import numpy as np
from dekr_tf.inference.detector import PoseDetector
poses = PoseDetector(sys.argv[1])(np.load(sys.argv[2]))
loaded = [name for name in ("tflite_runtime", "ai_edge_litert", "tensorflow", "keras") if name in sys.modules]
print(json.dumps([np.__version__, loaded, poses.keypoints.tolist()]))
"""
    run = subprocess.run(
        [OLD_RUNTIME, "-c", program, path, tmp_path / "photo.npy"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    version, loaded, keypoints = json.loads(run.stdout)
    assert version.startswith("1.26.")
    assert loaded == ["tflite_runtime"]
    expected = PoseDetector(path)(PHOTOS[0]).keypoints
    if precision == "int8":
        # Kernels of eight bits round in other ways.
        assert len(keypoints) > 0
    else:
        np.testing.assert_allclose(keypoints, expected, atol=COORDINATES)


def test_what_needs_another_operator_is_refused():
    image = keras.Input((None, None, 3), name="image")
    network = keras.Model(image, {"heatmap": keras.layers.Lambda(lambda x: tf.math.betainc(x, x, x))(image)})
    with pytest.raises(InputError, match=r"builtin operators. Received: .*Betainc"):
        to_tflite.convert(network, [(64, 64)], "float32")


@pytest.mark.parametrize(
    ("form", "name", "artifact", "reason"),
    [
        ("tflite", "m.tflite", {"input_sizes": ((64, 72),)}, "multiples of 32 pixels. Received: 64x72"),
        ("tflite", "m.tflite", {}, "fixed size and needs at least one"),
        ("tflite", "m.lite", {"input_sizes": ((64, 64),)}, "ends in .tflite. Received: .*m.lite"),
        ("tflite", "m.tflite", {"input_sizes": ((64, 64),), "precision": "int8"}, "int8 needs --calibration"),
        (
            "tflite",
            "m.tflite",
            {"input_sizes": ((64, 64),), "graph": "maps", "flip": True},
            "cannot contain a flip test",
        ),
        ("onnx", "m.onnx", {"input_sizes": ((64, 64), (64, 96))}, "one input size, or none for any. Received: 2"),
        ("onnx", "m.onnx", {"precision": "float16"}, "expected float32.*Received: float16"),
        ("saved_model", "m", {"precision": "int8"}, "expected float32.*Received: int8"),
        ("saved_model", "m", {"final": True}, "expected --serving for final poses"),
        ("onnx", "m.onnx", {"graph": "maps", "final": True}, "cannot contain final poses"),
    ],
)
def test_what_cannot_be_exported(network, tmp_path, form, name, artifact, reason):
    artifact = Artifact(**{"graph": "poses", **artifact})
    with pytest.raises(InputError, match=reason):
        export_model(*network, tmp_path / name, form, artifact, PHOTOS, calibrate=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers(tmp_path):
    model, sidecar = build()
    kernel = model.get_layer("stem_1_conv").kernel
    values = kernel.numpy()
    values[0, 0, 0, :2] = np.nan
    kernel.assign(values)
    with pytest.raises(InputError, match=r"weights stem_1_conv/kernel: expected finite values.*: 2 that"):
        export_model(model, sidecar, tmp_path / "m.onnx", "onnx", Artifact(graph="poses"), PHOTOS, calibrate=False)


def test_a_difference_that_is_too_large_leaves_nothing(network, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "TOLERANCES", {"float16": Tolerance(0.0, 0.0, 0.0)})
    artifact = Artifact(graph="maps", input_sizes=((64, 64),), precision="float16")
    with pytest.raises(InputError, match=r"m.tflite would differ too much .* Received: \d+ people in 2 images"):
        export_model(*network, tmp_path / "m.tflite", "tflite", artifact, PHOTOS, calibrate=False)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_needs_people(tmp_path):
    model, sidecar = build()
    heatmap = model.get_layer("heatmap")
    heatmap.kernel.assign(np.zeros(heatmap.kernel.shape))
    heatmap.bias.assign(np.zeros(heatmap.bias.shape))
    with pytest.raises(InputError, match=r"photos with people that the model finds\. Received: 2 without"):
        export_model(model, sidecar, tmp_path / "m", "saved_model", Artifact(graph="maps"), PHOTOS, calibrate=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_replaced(network, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("keep")
    with pytest.raises(InputError, match="new or empty folder"):
        export_model(*network, tmp_path / "m", "saved_model", Artifact(graph="maps"), PHOTOS, calibrate=False)
    assert (tmp_path / "m" / "mine").read_text() == "keep"


def people(*poses, score=0.5):
    """Poses of four keypoints."""
    keypoints = np.array(poses, np.float32).reshape(-1, 4, 2)
    scored = np.concatenate([keypoints, np.full((*keypoints.shape[:2], 1), score, np.float32)], axis=-1)
    return Poses(scored, np.full(len(scored), score, np.float32))


SQUARE = np.array([(0, 0), (30, 0), (30, 40), (0, 40)])


def test_a_comparison_by_hand():
    """One person has moved by (3, 4), one is gone; what the other detector finds besides does not count."""
    expected = people(SQUARE, SQUARE + 100)
    actual = people(SQUARE + np.array([3, 4]), SQUARE + 300, score=0.25)
    assert compare([(expected, actual)] * 2) == Comparison(2, 4, 2, (5.0, 5.0), (0.25, 0.25))
    assert compare([(expected, people())]) == Comparison(1, 2, 2, (0.0, 0.0), (0.0, 0.0))
    comparison = Comparison(1, 10, 1, (0.5, 3.0), (0.01, 0.1))
    assert comparison.within(Tolerance(0.5, 0.01, 0.1))
    assert not comparison.within(Tolerance(0.4, 0.01, 0.1))
    assert not comparison.within(Tolerance(0.5, 0.009, 0.1))
    assert not comparison.within(Tolerance(0.5, 0.01, 0.09))


def test_models_that_cannot_be_opened(export, tmp_path):
    whole = export("tflite", graph="poses", input_sizes=((64, 96),))
    content = whole.read_bytes()

    text = sidecar_path(whole).read_text()

    def refused(reason, name="m.tflite", data=content, sidecar=text, **options):
        path = tmp_path / name
        path.write_bytes(data)
        sidecar_path(path).unlink(missing_ok=True)
        if sidecar is not None:
            sidecar_path(path).write_text(sidecar)
        with pytest.raises(InputError, match=reason):
            PoseDetector(path, **options)

    settings = json.loads(text)
    end = content.rindex(b"PK\x03\x04")
    refused("no sidecar; expected its settings in", data=content[:end], sidecar=None)
    refused("expected version 1. Received: 2", sidecar=json.dumps({**settings, "version": 2}))
    refused("no TFLite model that can be run, or it is damaged", data=content[: len(content) // 2])
    refused("no TFLite model that can be run", data=b"hello")
    refused("no ONNX model that can be run", name="m.onnx", data=b"hello")
    refused("dekr export wrote", sidecar=json.dumps({key: settings[key] for key in settings if key != "artifact"}))
    maps = {**settings, "artifact": {**settings["artifact"], "graph": "maps"}}
    refused("expected the outputs heatmap, features. Received:", sidecar=json.dumps(maps))
    refused("expected no input size beside a model that takes 64x96 only. Received: 128", input_size=128)
    refused("exported with --flip", flip=True)
    refused("Keras model for a dense offset head", dense=True)
    with pytest.raises(InputError, match="no such model"):
        PoseDetector(tmp_path / "gone.tflite")
    with pytest.raises(InputError, match="no sidecar"):
        PoseDetector(tmp_path)
    (tmp_path / "sidecar.json").write_text(json.dumps({**settings, "artifact": {"graph": "poses"}}))
    with pytest.raises(InputError, match="no SavedModel, or it is damaged"):
        PoseDetector(tmp_path)
