"""`.pth` files without PyTorch: the same values in both formats, no code run, and one line for every other file.

The two goldens hold the same content, written by PyTorch 2.13: all kinds of storage, views that share one, and notes
with arrays of NumPy as mmengine's checkpoints have them.
"""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pth_writer import Opcodes, archive, call, checkpoint, named, opcodes, pickled, storage, tensor

from converters.checkpoint_file import LEFT_OUT, Tensor, read_checkpoint
from dekr_tf.errors import InputError

GOLDENS = Path(__file__).parents[1] / "goldens"
FORMATS = ("zip", "legacy")
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
    "base": BASE,
    "transposed": BASE.T,
    "window": np.array([[8, 9, 10], [14, 15, 16]], np.float32),
    "every_other": np.array([[[0, 2, 4], [6, 8, 10], [12, 14, 16], [18, 20, 22]]], np.float32),
    "half": np.array([0.5, -2], np.float16),
    "bfloat": np.array([1.5, -3], np.float32),
    "double": np.array([1 / 3]),
    "counter": np.array(7, np.int64),
    "int32": np.array([-1, 2], np.int32),
    "byte": np.array([255], np.uint8),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.array([4, 5], np.float32),
}

pytestmark = pytest.mark.slow


def golden(name):
    return (GOLDENS / f"checkpoint_{name}.pth").read_bytes()


@pytest.fixture
def read(tmp_path):
    """Reads a checkpoint from its bytes."""

    def read(content):
        (tmp_path / "some.pth").write_bytes(content)
        return read_checkpoint(tmp_path / "some.pth")

    return read


@pytest.mark.parametrize("name", FORMATS)
def test_every_kind_of_storage_and_view(name):
    tensors = read_checkpoint(GOLDENS / f"checkpoint_{name}.pth")["state_dict"]
    assert list(tensors) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        received = tensors[key].numpy()
        assert received.dtype == expected.dtype, key
        np.testing.assert_array_equal(received, expected, err_msg=key, strict=True)


@pytest.mark.parametrize("name", FORMATS)
def test_plain_values_and_what_is_left_out(name):
    assert read_checkpoint(GOLDENS / f"checkpoint_{name}.pth")["meta"] == {
        "epoch": 140,
        "rate": 2.5e-4,
        "name": "dekr",
        "done": True,
        "rest": None,
        "pair": (1, -2),
        "list": [3, 70000],
        "sigmas": LEFT_OUT,
        "best": LEFT_OUT,
    }


def test_tensors_of_one_storage_share_its_memory():
    tensors = read_checkpoint(GOLDENS / "checkpoint_zip.pth")["state_dict"]
    assert np.shares_memory(tensors["base"].numpy(), tensors["window"].numpy())


def test_big_endian_files(read):
    values = np.array([1, 2, 3, 4, 5, 6], ">f4")
    data = pickled(tensor(storage()))
    received = read(archive(data, {"0": values.tobytes()}, byte_order=b"big")).numpy()
    np.testing.assert_array_equal(received, [[1, 2, 3], [4, 5, 6]])


def test_logs_of_mmengine_are_left_out(read):
    history = Opcodes(named("mmengine.logging.history_buffer HistoryBuffer") + b")\x81" + opcodes({"max": 3}) + b"b")
    bound = call(named("__builtin__ getattr"), history, "mean")
    assert read(archive(pickled({"loss": history, "mean": bound}))) == {"loss": LEFT_OUT, "mean": LEFT_OUT}


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_is_not_run(read, tmp_path):
    harmful = {"state_dict": {}, "more": Code(tmp_path / "ran")}
    with pytest.raises(InputError, match=r"some.pth: only tensors and plain values are read. Received: posix.mkdir$"):
        read(archive(pickle.dumps(harmful, protocol=2)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "torch load", "torch._utils _rebuild_tensor_v3", "numpy load", "collections Counter"]
)
def test_other_names_are_refused(read, name):
    with pytest.raises(
        InputError, match=f"only tensors and plain values are read. Received: {name.replace(' ', '.')}$"
    ):
        read(archive(pickled({"a": call(named(name), "x")})))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (call("text", 1), "a pickle calls a value"),
        (Opcodes(named("collections OrderedDict") + b"NR"), "a pickle calls a value"),
        (Opcodes(b"R"), "a pickle takes more values than it has"),
        (Opcodes(b"(u"), "a pickle fills something that is no dict"),
        (Opcodes(b"Na"), "a pickle fills something that is no list"),
        (Opcodes(b"}(\x88u"), "shorter"),
        ({(1, 2): 3}, "a key that is a tuple"),
        (Opcodes(b"\x8c\x01a"), "SHORT_BINUNICODE in a pickle"),
        (Opcodes(b"\x96" + b"\xff" * 7 + b"\x00"), "BYTEARRAY8|expected"),
        (Opcodes(b"h\x07"), "7"),
        (Opcodes(b"Q"), "a pickle takes more values than it has"),
        (Opcodes(opcodes(("module", "a", "0", "cpu", 6)) + b"Q"), "something that is no storage"),
        (storage(kind="numpy ndarray"), "something that is no storage"),
        (storage(count=-6), "something that is no storage"),
        (storage(count=2**63), "something that is no storage"),
        (storage(key=()), "something that is no storage"),
        (storage(count=5), "24 bytes in place of the 20 of a storage"),
        (storage(key="../1"), "no item named 'archive/data/../1'"),
        ((storage(), storage(kind="torch LongStorage")), "a storage of two kinds"),
        (tensor(1), "a tensor that is no plain view of a storage"),
        (tensor(storage(), offset=-1), "a tensor that is no plain view"),
        (tensor(storage(), stride=(-1, 1)), "a tensor that is no plain view"),
        (tensor(storage(), size=(2, True)), "a tensor that is no plain view"),
        (tensor(storage(), size=(2,)), "other strides than axes"),
        (tensor(storage(), size=(1,) * 33, stride=(1,) * 33), "or with too many"),
        (tensor(storage(), offset=1), "leads out of its storage"),
        (tensor(storage(), stride=(4, 1)), "leads out of its storage"),
        (tensor(storage(), size=(2, 4)), "leads out of its storage"),
        (tensor(storage(), size=(2**40, 2**40), stride=(0, 0)), "leads out of its storage"),
    ],
    ids=repr,
)
def test_pickles_that_make_no_sense(read, value, reason):
    with pytest.raises(
        InputError, match=f"some.pth is not a PyTorch checkpoint, or it is damaged: .*{reason}"
    ) as error:
        read(archive(pickled(value), {"0": bytes(24)}))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_stride_of_an_axis_of_one_may_be_any_number(read):
    content = archive(pickled(tensor(storage(), size=(1, 6), stride=(2**62, 1))), {"0": bytes(24)})
    assert read(content).numpy().shape == (1, 6)


def test_deep_nesting_overflows_nothing(read):
    deep = Opcodes(b")" + b"\x85" * 1_000_000)
    with pytest.raises(InputError, match="a key that is a tuple"):
        read(archive(pickled({deep: 1})))
    assert len(read(archive(pickled({"a": deep})))) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04", pickle.dumps({"a": 1}), pickle.dumps([1], protocol=2), bytes(100), archive(b"")],
)
def test_other_files_are_refused(read, content):
    with pytest.raises(InputError, match="is not a PyTorch checkpoint, or it is damaged: "):
        read(content)


def test_archives_of_another_kind(read):
    content = checkpoint({"a": 1})
    with pytest.raises(InputError, match=r"some.pth: expected one data.pkl in a PyTorch archive. Received: 0$"):
        read(content.replace(b"data.pkl", b"code.pkl"))
    with pytest.raises(InputError, match=r"expected no compression in a PyTorch archive. Received: archive/data.pkl$"):
        read(archive(pickled({}), compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", FORMATS)
def test_every_shorter_file_is_damaged(read, name):
    whole = golden(name)
    for length in range(0, len(whole), 1 if name == "legacy" else 17):
        with pytest.raises(InputError, match="damaged"):
            read(whole[:length])


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_byte_gives_a_checkpoint_or_one_line(read, name):
    whole = golden(name)
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        try:
            content = read(bytes(changed))
        except InputError as error:
            assert str(error).count("\n") == 0
            continue
        for value in content["state_dict"].values() if isinstance(content.get("state_dict"), dict) else ():
            assert not isinstance(value, Tensor) or value.numpy().size >= 0


def test_a_changed_value_disagrees_with_its_checksum(read):
    values = np.ones(64, np.float32).tobytes()
    content = checkpoint({"a": np.ones(64, np.float32)})
    assert content.count(values) == 1
    with pytest.raises(InputError, match=r"some.pth: damaged, expected .* its checksum. Received: archive/data/0$"):
        read(content.replace(values, values[:-1] + b"\x40"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot read checkpoint .*gone.pth: No such file or directory$"):
        read_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(InputError, match=r"cannot read checkpoint .*: Is a directory$"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"cannot read checkpoint .*: embedded null"):
        read_checkpoint("a\0b.pth")


@pytest.mark.parametrize("name", FORMATS)
def test_goldens_equal_what_pytorch_reads(name):
    torch = pytest.importorskip("torch")
    ours = read_checkpoint(GOLDENS / f"checkpoint_{name}.pth")["state_dict"]
    # PyTorch refuses the arrays of NumPy beside the tensors, unless it is told that the file is trusted.
    theirs = torch.load(GOLDENS / f"checkpoint_{name}.pth", weights_only=False)["state_dict"]
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        received = torch.from_numpy(ours[key].numpy().copy())
        assert torch.equal(received, value.detach().float() if value.dtype == torch.bfloat16 else value.detach())


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "model",
    [
        "coco_w32",
        "coco_w48",
        "crowdpose_w32",
        "crowdpose_w48",
        "mmpose_coco_w32",
        "mmpose_crowdpose_w32",
        "rescore_coco",
        "rescore_crowdpose",
        "efficientnet_lite0",
    ],
)
def test_checkpoints_of_every_manifest_equal_what_pytorch_reads(model, old_format, manifests, tmp_path):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    path = tmp_path / "model.pth"
    tensors = {
        name: torch.tensor(5) if name.endswith("num_batches_tracked") else torch.rand(shape, generator=generator)
        for name, shape in manifests[model].items()
    }
    torch.save(tensors, path, _use_new_zipfile_serialization=not old_format)
    ours, theirs = read_checkpoint(path), torch.load(path, weights_only=True)
    path.unlink()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name].numpy(), value.numpy(), err_msg=name, strict=True)
