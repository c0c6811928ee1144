"""What a training sample costs on one core: from a 640x480 JPEG file to what the training step takes, by stage.

Draws a photo-like picture with four people and a region without labels, and prints for every stage the CPU time a
sample, the samples a second, and the share of the whole. "pipeline" is the whole as training runs it, with tf.data and
batches; "pipeline, records" the same from TFRecord. The last lines are what drawing the target maps costs when it is
done on the CPU, as part of the training step.

The reference's sample costs 33 ms on a core that takes 1.4 ms to decode such a JPEG, 23.6 times as much: the last
column is the time as a multiple of the bare decoding here, which other work on the machine changes less than it does
milliseconds.

python benchmarks/data_pipeline.py
"""

import argparse
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

from dekr_tf.coco_format import box_around
from dekr_tf.config import Config
from dekr_tf.data.annotations import ImageRecord
from dekr_tf.data.augmentation import random_augmentation
from dekr_tf.data.pipeline import train_dataset
from dekr_tf.data.records import RecordFiles, write_records
from dekr_tf.data.samples import LabelledImages, SampleEncoder
from dekr_tf.data.target_encoder import TargetEncoder
from dekr_tf.data.target_maps import draw_targets
from dekr_tf.images import decode_image, open_images

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


def pipeline_time(data, config: Config, batches: int) -> float:
    """Milliseconds of CPU a sample of the whole pipeline, on one thread."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    batch_iterator = iter(train_dataset(data, config).repeat().with_options(options))
    next(batch_iterator)
    return cpu_time(lambda: next(batch_iterator), batches) / config.training.batch_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--input-size", type=int, default=512)
    options = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    config = Config(input_size=options.input_size, training={"batch_size": 8})
    schema, stride = config.schema, 4
    map_size = config.input_size // stride
    records = [four_people(number, random) for number in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        for record in records[:PHOTOS]:
            (Path(folder) / "images" / record.file_name).write_bytes(photo_like(random))
        images = open_images(Path(folder) / "images")
        content = images.content("0.jpg")
        buffer = np.frombuffer(content, np.uint8)
        photo = decode_image(content, "0.jpg", exif_orientation=False)
        record = records[0]
        augmentation = random_augmentation(SIZE, config.input_size, config.data.augmentation, random)
        encoder = SampleEncoder(schema, config, stride, 4)
        mask = record.valid_mask()
        blank = ImageRecord(0, "", SIZE, record.keypoints, record.areas, record.boxes)
        whole = cpu_time(lambda: encoder(photo, blank, np.random.default_rng(0)), options.repetitions)

        def in_turn(call):
            return cpu_time(call, options.repetitions)

        bare = in_turn(lambda: cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION))
        warp = in_turn(lambda: augmentation.transform_image(photo))
        photo_mask = in_turn(lambda: augmentation.transform_mask(blank.valid_mask(), stride))
        stages = {
            "read the file": in_turn(lambda: images.content("0.jpg")),
            "decode, checked": in_turn(lambda: decode_image(content, "0.jpg", exif_orientation=False)),
            "warp": warp,
            "mask": in_turn(lambda: augmentation.transform_mask(record.valid_mask(), stride)),
            "labels": whole - warp - photo_mask,
        }
        total = pipeline_time(LabelledImages(records, images.path), config, max(1, options.repetitions // 8))
        stages["tf.data and batches"] = total - sum(stages.values())
        write_records(records, images, Path(folder) / "records", schema)
        from_records = pipeline_time(RecordFiles(f"{folder}/records", schema), config, max(1, options.repetitions // 8))

        print(f"OpenCV {cv2.__version__}, TensorFlow {tf.__version__}, load {os.getloadavg()[0]:.2f}, ", end="")
        print(f"JPEG {len(content) / 1000:.0f} kB, input {config.input_size}; bare decoding {bare:.2f} ms")
        print(f"{'stage':22} {'ms':>6} {'samples/s':>10} {'share':>6} {'decodings':>10}")
        for name, spent in {**stages, "pipeline": total, "pipeline, records": from_records}.items():
            print(f"{name:22} {spent:6.2f} {1000 / spent:10.0f} {spent / total:6.0%} {spent / bare:10.2f}")
        print(f"of the reference's {REFERENCE:.1f} decodings: 1/{REFERENCE * bare / total:.1f}")

        labels = TargetEncoder(len(schema), config.targets, 30)
        for people in (4, 30):
            points = random.uniform(0, map_size, (people, 18, 3))
            arrays = labels(points, np.full(people, 900.0), cv2.resize(mask, (map_size, map_size)))
            batch = {name: tf.constant(np.stack([values] * 4)) for name, values in arrays.items()}
            for kind, compiled in (("graph", False), ("XLA", True)):
                draw = tf.function(lambda batch: draw_targets(batch, config.targets), jit_compile=compiled)
                spent = cpu_time(lambda draw=draw, batch=batch: draw(batch), 3) / 4
                print(f"draw the maps of {people} people, {kind}: {spent:.1f} ms a sample")


if __name__ == "__main__":
    main()
