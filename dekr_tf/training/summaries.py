"""TensorBoard's files, written with its own package alone, so that they work with every Keras backend."""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter


def write_summaries(
    folder: Path, suffix: str, step: int, scalars: Mapping[str, float], pictures: Iterable[tuple[str, np.ndarray]] = ()
) -> None:
    """Writes the scalars and pictures of one step to a new file.

    Args:
        folder: where TensorBoard looks; made if missing.
        suffix: of the file's name.
        step: number on TensorBoard's axis.
        scalars: by name.
        pictures: name and (H, W, 3) uint8 RGB.

    Raises:
        OSError: the file cannot be written.
    """
    values = [value for name, scalar in scalars.items() for value in scalar_pb(name, scalar).value]
    values += [_picture(name, picture) for name, picture in pictures]
    now = time.time()
    events = Event(wall_time=now, file_version="brain.Event:2"), Event(wall_time=now, step=step)
    events[1].summary.value.extend(values)
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard recognizes its files by this name, and orders them by the seconds in it.
    name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}{suffix}"
    with open(folder / name, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def _picture(name: str, picture: np.ndarray) -> Summary.Value:
    height, width, _ = picture.shape
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    content = TensorProto(dtype=DT_STRING, string_val=[b"%d" % width, b"%d" % height, encoded.tobytes()])
    content.tensor_shape.dim.add(size=3)
    metadata = create_summary_metadata(display_name=None, description=None)
    return Summary.Value(tag=name, tensor=content, metadata=metadata)
