"""Training data as TFRecord shards: few large files, for storage that is slow with many small ones."""

import contextlib
import copy
import errno
import json
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from dekr_tf.data.annotations import ImageRecord
from dekr_tf.errors import InputError
from dekr_tf.files.images import ImageSource, decode_image
from dekr_tf.files.json_values import is_whole_number
from dekr_tf.files.outputs import atomic_outputs
from dekr_tf.keypoints import KeypointSchema

VERSION = 2
METADATA = "metadata.json"
#: Images per shard; about 100 to 200 MB of COCO's.
IMAGES_PER_SHARD = 1024
#: Images held in memory for shuffling, and shards read in parallel.
_BLOCK, _SHARDS_AT_ONCE = 512, 16


class RecordFiles:
    """TFRecord shards from `write_records`, as training data (`samples.TrainingData`).

    A pass has every image once. Its order differs from that of image files: shards in random order are read 16 at a
    time, and images are shuffled in blocks of 512. The sample made from an image in a pass is the same.

    A machine's share of a pass (`share`) consists of whole shards, different ones in each pass. If the shards do not
    divide evenly among the machines, all machines read the remaining ones.

    Args:
        folder: a path, or an address that TensorFlow can read, such as gs://bucket/folder.
        schema: the skeleton that the labels must have.

    Raises:
        InputError: the folder holds no records, or records of another version or skeleton.
    """

    # Whose part of each pass this is, see `share`.
    _machine, _machines = 0, 1

    def __init__(self, folder: str, schema: KeypointSchema):
        path = os.path.join(folder, METADATA)
        try:
            content = json.loads(tf.io.gfile.GFile(path).read())
            version = content["version"]
        except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"expected records of `dekr data tfrecord` in {folder}. Received: {reason}") from error
        if version != VERSION:
            raise InputError(
                f"records {folder}: expected version {VERSION}; `dekr data tfrecord` writes it. Received: {version}"
            )
        counts = content.get("max_people"), content.get("images")
        shards, keypoints = content.get("shards"), content.get("keypoints")
        if not (
            all(is_whole_number(count, 1) for count in counts)
            and isinstance(shards, list)
            and all(isinstance(name, str) for name in shards)
            and isinstance(keypoints, dict)
        ):
            raise InputError(
                f"records {folder}: {METADATA} lacks valid max_people, images, shards or keypoints, which `dekr data "
                f"tfrecord` writes"
            )
        names = KeypointSchema.from_dict(keypoints).names
        if names != schema.names:
            raise InputError(
                f"records {folder}: expected the {len(schema)} keypoints of {schema.name}, {', '.join(schema.names)}. "
                f"Received: {len(names)}, {', '.join(names)}"
            )
        self.max_people, self._count = map(int, counts)
        self._num_keypoints = len(schema)
        self._shards = [os.path.join(folder, name) for name in shards]

    def __len__(self):
        return math.ceil(self._count / self._machines)

    @property
    def most_shares(self):
        return len(self._shards)

    def share(self, machine, machines):
        share = copy.copy(self)
        share._machine, share._machines = machine, machines
        return share

    def order(self, number, seed):
        def shuffled(number):
            return np.random.default_rng((seed, int(number))).permutation(self._shards).astype(object)

        def keys_of(shard, readers):
            # Of a shard with n readers, each takes every n-th image.
            return tf.data.TFRecordDataset(shard).shard(readers, self._machine % readers)

        shards = tf.numpy_function(shuffled, [number], tf.string)
        shards.set_shape((len(self._shards),))
        whole, rest = divmod(len(self._shards), self._machines)
        divided = whole * self._machines
        readers = np.repeat([1, self._machines], [whole, rest])
        own = tf.concat([shards[self._machine : divided : self._machines], shards[divided:]], axis=0)
        keys = tf.data.Dataset.from_tensor_slices((own, readers)).interleave(
            keys_of,
            cycle_length=_SHARDS_AT_ONCE,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if self._machines > 1:
            # Shards differ in length by one image, or by more if damaged ones were left out.
            keys = keys.repeat().take(len(self))

        def shuffled_block(position, block):
            # `Dataset.shuffle` takes no seed that changes with the pass.
            block = tf.random.experimental.stateless_shuffle(block, seed=tf.stack([number + seed * 2**20, position]))
            return tf.data.Dataset.from_tensor_slices(block)

        return keys.batch(_BLOCK).prefetch(1).enumerate().flat_map(shuffled_block)

    def load(self, key):
        index, content, record = _parse(key, self._num_keypoints)
        return index, decode_image(content, record.file_name, exif_orientation=False), record

    def end_epoch(self):
        """Has nothing to report: damaged images were found when the records were written."""


def write_records(
    records: Sequence[ImageRecord],
    images: ImageSource,
    folder: str | os.PathLike,
    schema: KeypointSchema,
    *,
    shards: int | None = None,
    damaged: str = "stop",
    progress: bool = False,
) -> int:
    """Writes image files unchanged, with their labels, as TFRecord shards beside `metadata.json`.

    Every image is decoded once, to find the damaged ones. The shards take the images in a fixed random order, so that
    neighbors in the annotations are not neighbors in training. The folder appears when everything is written.

    Args:
        records: of `read_annotations`.
        images: of `open_images`.
        folder: to make; it may exist if it is empty.
        schema: the skeleton of the labels.
        shards: number of files. Default: one per 1024 images.
        damaged: `stop`, or `skip`: images that cannot be read are named and left out.
        progress: show a bar on standard error if that is a terminal.

    Returns:
        The number of images written.

    Raises:
        InputError: the folder is not empty or cannot be written to, there are fewer images than shards, or an image
            cannot be read (with `skip`: all of them).
    """
    shards = shards or -(-len(records) // IMAGES_PER_SHARD)
    if not 1 <= shards <= len(records):
        raise InputError(f"shards: expected 1 to {len(records)}, the number of images. Received: {shards}")
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    names = [f"{shard:05d}-of-{shards:05d}.tfrecord" for shard in range(shards)]
    written = []
    with (
        atomic_outputs(folder, folder=True) as temporary,
        write_errors(temporary),
        tqdm(total=len(records), unit="image", disable=None if progress else True) as bar,
    ):
        temporary.mkdir()
        for shard, name in enumerate(names):
            with tf.io.TFRecordWriter(str(temporary / name)) as writer:
                for index in order[shard::shards]:
                    record = records[index]
                    try:
                        images.read(record.file_name, record.size)
                        writer.write(_example(index, record, images.content(record.file_name)))
                        written.append(len(record))
                    except InputError as error:
                        if damaged == "stop":
                            raise
                        bar.write(f"left out: {error}")
                    bar.update()
        if not written:
            raise InputError(
                f"expected images that can be read in {images.path}. Received: {len(records)}, all damaged"
            )
        metadata = {
            "version": VERSION,
            "images": len(written),
            "max_people": max(1, *written),
            "keypoints": schema.to_dict(),
            "shards": names,
        }
        (temporary / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    return len(written)


def _example(index: int, record: ImageRecord, content: bytes) -> bytes:
    def text(*values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def whole(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def real(values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel()))

    features = {
        "index": whole(index),
        "file_name": text(record.file_name.encode()),
        "image": text(content),
        "size": whole(*record.size),
        "keypoints": real(record.keypoints),
        "areas": real(record.areas),
        "boxes": real(record.boxes),
        "ignored": text(*(region["counts"] for region in record.ignored)),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _parse(data: bytes, num_keypoints: int) -> tuple[int, bytes, ImageRecord]:
    """Position in the data set, content of the image file and labels, as `_example` wrote them."""
    features = tf.train.Example.FromString(data).features.feature
    index, size = features["index"].int64_list.value[0], tuple(features["size"].int64_list.value)
    record = ImageRecord(
        image_id=index,
        file_name=features["file_name"].bytes_list.value[0].decode(),
        size=size,
        keypoints=np.array(features["keypoints"].float_list.value, np.float32).reshape(-1, num_keypoints, 3),
        areas=np.array(features["areas"].float_list.value, np.float32),
        boxes=np.array(features["boxes"].float_list.value, np.float32).reshape(-1, 4),
        ignored=tuple({"size": list(size), "counts": counts} for counts in features["ignored"].bytes_list.value),
    )
    return index, features["image"].bytes_list.value[0], record


@contextlib.contextmanager
def write_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Turns TensorFlow's error about a file in `folder` that it cannot write into an `OSError` about the folder."""
    try:
        yield
    except tf.errors.OpError as error:
        if str(folder) not in error.message:
            raise
        # "{{node}} path; File too large [Op:SaveV2]"
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        raise OSError(errno.EIO, reason, str(folder)) from error
