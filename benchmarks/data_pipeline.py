"""What a training sample costs on one core: from a 640x480 JPEG file to what the training step takes, by stage.

Draws photo-like pictures with four people and a region without labels, or takes photos of --annotations and --images,
and prints for every stage the CPU time a sample, the samples a second, and the share of the whole. "pipeline" is the
whole as training runs it, with tf.data and batches; "pipeline, records" the same from TFRecord, "PyDataset" without
TensorFlow. Then the samples a second on the clock, on one thread and on all processors. The last lines are what drawing
the target maps costs when it is done on the CPU, as part of the training step.

The reference's sample costs 33 ms on a core that takes 1.4 ms to decode such a JPEG, 23.6 times as much: the last
column is the time as a multiple of the bare decoding here, which other work on the machine changes less than it does
milliseconds.

python benchmarks/data_pipeline.py
python benchmarks/data_pipeline.py --input-size 192 --annotations train.json --images images
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import tensorflow as tf
from pycocotools import mask as rle

from dekr_tf.config import Config
from dekr_tf.data.annotations import ImageRecord, read_annotations
from dekr_tf.data.augmentation import random_augmentation
from dekr_tf.data.batches import TrainingBatches
from dekr_tf.data.pipeline import train_dataset
from dekr_tf.data.records import RecordFiles, write_records
from dekr_tf.data.samples import LabeledImages, SampleEncoder
from dekr_tf.data.target_encoder import TargetEncoder
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.files.coco_format import box_around
from dekr_tf.files.images import decode_image
from dekr_tf.processors import available_processors

SIZE = (480, 640)
#: Many images, so that the start of a pass does not count for much; few photos, which take long to draw.
IMAGES, PHOTOS = 512, 16
#: Cost of the reference's sample, in times of decoding the JPEG.
REFERENCE = 33 / 1.4


def photo_like(random: np.random.Generator) -> bytes:
    """A JPEG with structure of all sizes and the noise of a sensor; about as large as a photo's."""
    picture = np.full((*SIZE, 3), 128.0)
    for octave in range(1, 8):
        coarse = random.normal(0, 4 * 1.35**octave, (SIZE[0] // 2**octave + 2, SIZE[1] // 2**octave + 2, 3))
        picture += cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    picture += random.normal(0, 4, picture.shape)
    return cv2.imencode(".jpg", np.uint8(np.clip(picture, 0, 255)), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def four_people(number: int, random: np.random.Generator) -> ImageRecord:
    keypoints = np.full((4, 17, 3), 2, np.float32)
    keypoints[..., :2] = random.uniform((0, 0), (80, 200), (4, 17, 2)) + random.uniform(0, (560, 280), (4, 1, 2))
    ignored = np.zeros(SIZE, np.uint8)
    cv2.ellipse(ignored, (500, 300), (60, 120), 20, 0, 360, 1, -1)
    return ImageRecord(
        number,
        f"{number % PHOTOS}.jpg",
        SIZE,
        keypoints,
        np.full(4, 8000, np.float32),
        np.array([box_around(person) for person in keypoints[..., :2]], np.float32),
        (rle.encode(np.asfortranarray(ignored)),),
    )


def cpu_time(call, repetitions: int) -> float:
    """Milliseconds of CPU a call; the median of five rounds."""
    call()
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(repetitions):
            call()
        rounds.append((time.process_time() - start) / repetitions)
    return 1000 * float(np.median(rounds))


def batches_on(threads: int, data, config: Config):
    """An iterator of batches, made on so many threads."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    iterator = iter(train_dataset(data, config).repeat().with_options(options))
    next(iterator)
    return iterator


def pipeline_time(data, config: Config, batches: int) -> float:
    """Milliseconds of CPU a sample of the whole pipeline, on one thread."""
    iterator = batches_on(1, data, config)
    return cpu_time(lambda: next(iterator), batches) / config.training.batch_size


def samples_per_second(data, config: Config, batches: int) -> dict[int, float]:
    """On the clock, by number of threads; the median of five rounds, in turns."""
    rounds = {1: [], available_processors(): []}
    for _ in range(5):
        for threads, rates in rounds.items():
            iterator = batches_on(threads, data, config)
            start = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            rates.append(batches * config.training.batch_size / (time.perf_counter() - start))
    return {threads: float(np.median(rates)) for threads, rates in rounds.items()}


def drawn_photos(folder: Path, random: np.random.Generator) -> tuple[list[ImageRecord], Path]:
    (folder / "images").mkdir()
    records = [four_people(number, random) for number in range(IMAGES)]
    for record in records[:PHOTOS]:
        (folder / "images" / record.file_name).write_bytes(photo_like(random))
    return records, folder / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--input-size", type=int, default=512)
    parser.add_argument("--annotations", type=Path, help="labels with COCO's keypoints; the first 512 images count")
    parser.add_argument("--images", type=Path, help="folder or zip file of their images")
    options = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    config = Config(input_size=options.input_size, training={"batch_size": 8})
    schema, stride = config.schema, 4
    map_size = config.input_size // stride
    batches = max(1, options.repetitions // 8)
    with tempfile.TemporaryDirectory() as folder:
        if options.annotations:
            records, path = read_annotations(options.annotations, schema)[:IMAGES], options.images
        else:
            records, path = drawn_photos(Path(folder), random)
        data = LabeledImages(records, path)
        images, shown = data.images, records[:PHOTOS]
        contents = [images.content(record.file_name) for record in shown]
        photos = [decode_image(content, "photo", exif_orientation=False) for content in contents]
        augmentations = [
            random_augmentation(record.size, config.input_size, config.data.augmentation, random) for record in shown
        ]
        encoder = SampleEncoder(schema, config, stride, data.max_people)

        def in_turn(call, *arguments):
            """CPU time a photo of a function of each photo's arguments."""
            groups = list(zip(*arguments, strict=True))
            return cpu_time(lambda: [call(*group) for group in groups], batches) / len(groups)

        bare = in_turn(
            lambda content: cv2.imdecode(
                np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            ),
            contents,
        )
        whole = in_turn(lambda *each: encoder(*each, np.random.default_rng(0)), photos, shown)
        warp = in_turn(lambda augmentation, photo: augmentation.transform_image(photo), augmentations, photos)
        mask = in_turn(
            lambda augmentation, record: augmentation.transform_mask(record.valid_mask(), stride), augmentations, shown
        )
        stages = {
            "read the file": in_turn(lambda record: images.content(record.file_name), shown),
            "decode, checked": in_turn(
                lambda content: decode_image(content, "photo", exif_orientation=False), contents
            ),
            "warp": warp,
            "mask": mask,
            "labels": whole - warp - mask,
        }
        total = pipeline_time(data, config, batches)
        stages["tf.data and batches"] = total - sum(stages.values())
        write_records(records, images, Path(folder) / "records", schema)
        from_records = pipeline_time(RecordFiles(f"{folder}/records", schema), config, batches)
        numpy_batches = TrainingBatches(data, config)
        numbers = itertools.cycle(range(len(numpy_batches)))
        from_numpy = cpu_time(lambda: numpy_batches[next(numbers)], batches) / config.training.batch_size
        rates = samples_per_second(data, config, 4 * batches)

        print(f"OpenCV {cv2.__version__}, TensorFlow {tf.__version__}, load {os.getloadavg()[0]:.2f}, ", end="")
        kilobytes = sum(map(len, contents)) / len(contents) / 1000
        print(f"JPEG {kilobytes:.0f} kB, input {config.input_size}; bare decoding {bare:.2f} ms")
        print(f"{'stage':22} {'ms':>6} {'samples/s':>10} {'share':>6} {'decodings':>10}")
        wholes = {"pipeline": total, "pipeline, records": from_records, "PyDataset": from_numpy}
        for name, spent in {**stages, **wholes}.items():
            print(f"{name:22} {spent:6.2f} {1000 / spent:10.0f} {spent / total:6.0%} {spent / bare:10.2f}")
        if not options.annotations:
            print(f"of the reference's {REFERENCE:.1f} decodings: 1/{REFERENCE * bare / total:.1f}")
        for threads, rate in rates.items():
            print(f"on the clock, threads: {threads}: {rate:.0f} samples/s")

        labels = TargetEncoder(len(schema), config.targets, 30)
        for people in (4, 30):
            points = random.uniform(0, map_size, (people, 18, 3))
            arrays = labels(points, np.full(people, 900.0), np.ones((map_size, map_size), np.uint8))
            batch = {name: tf.constant(np.stack([values] * 4)) for name, values in arrays.items()}
            for kind, compiled in (("graph", False), ("XLA", True)):
                draw = tf.function(lambda batch: draw_targets(batch, config.targets), jit_compile=compiled)
                spent = cpu_time(lambda draw=draw, batch=batch: draw(batch), 3) / 4
                print(f"draw the maps of {people} people, {kind}: {spent:.1f} ms a sample")


if __name__ == "__main__":
    main()
