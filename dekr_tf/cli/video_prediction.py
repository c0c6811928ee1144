"""`dekr predict` of a video file or a camera, frame by frame, whatever its length."""

import argparse
import contextlib
import csv
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dekr_tf.cli.photos import keypoint_columns, output_format, summary
from dekr_tf.errors import InputError

if TYPE_CHECKING:
    from dekr_tf.files.video import VideoReader
    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.keypoints import KeypointSchema
    from dekr_tf.poses import Poses

#: Adds a frame: its number, its time in seconds, and its people.
AddFrame = Callable[[int, float, "Poses"], None]


def predict_video(
    arguments: argparse.Namespace, inputs: Iterable[Path | str | None], open_detector: Callable[[], "PoseDetector"]
) -> None:
    """Runs `dekr predict` on one video file or camera, and prints the frames per second in the end.

    Args:
        arguments: of `dekr predict`.
        inputs: files that are read beside the video.
        open_detector: loads the model; called once everything else is checked.

    Raises:
        InputError: there are several sources, the source has no frame, or model or outputs cannot be used; then nothing
            is written.
    """
    from tqdm import tqdm

    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.files.video import CODECS, VideoReader, is_camera, write_video
    from dekr_tf.inference.tracking import PoseTracker
    from dekr_tf.visualization.drawing import draw_poses

    if len(arguments.images) > 1:
        raise InputError(f"expected one video or camera alone. Received: {' '.join(arguments.images)}")
    if arguments.frames is not None and arguments.frames < 1:
        raise InputError(f"--frames: expected a positive number. Received: {arguments.frames}")
    (source,) = arguments.images
    output, draw, camera = arguments.output, arguments.draw, is_camera(source)
    if draw and (draw.is_dir() or not draw.suffix):
        draw /= f"{Path(source).stem.replace(':', '_')}.mp4"
    if draw and draw.suffix.lower() not in CODECS:
        raise InputError(f"--draw of a video: expected a file name in {' or '.join(CODECS)}. Received: {draw}")
    check_outputs([output, draw], [source, *inputs])

    with contextlib.ExitStack() as stack:
        video = stack.enter_context(VideoReader(source))
        add_drawing = stack.enter_context(write_video(draw, video.size, video.frame_rate)) if draw else None
        # Entered after the drawing: a failed write to this file then discards the drawing too.
        text = stack.enter_context(_open_text(output)) if output else None
        detector = open_detector()
        schema = detector.sidecar.schema
        tracker = PoseTracker(schema.oks_sigmas, min_score=arguments.min_score) if arguments.track else None
        add_poses = stack.enter_context(_FORMATS[output_format(output)](text, video, schema)) if text else None
        stopped = stack.enter_context(_interrupt_ends()) if camera else threading.Event()
        total = min((count for count in (arguments.frames, video.frame_count) if count), default=None)
        progress = stack.enter_context(tqdm(total=total, unit="frame", disable=not sys.stderr.isatty()))
        count, start = 0, None
        for seconds, frame, found in detector.stream(video):
            poses = tracker.update(found) if tracker else found
            if add_poses:
                add_poses(count, seconds, poses)
            shown = poses.filter(arguments.min_score)
            if add_drawing:
                add_drawing(draw_poses(frame, shown), seconds)
            if not text and not draw:
                tqdm.write(summary(shown, f"{source} frame {count}"))
            count += 1
            progress.update()
            # The first frame is not timed, since the network's graph is made for it.
            start = start or time.perf_counter()
            if stopped.is_set() or count == arguments.frames:
                break
        seconds = time.perf_counter() - start
    if video.ended_early:
        expected = f" of {video.frame_count}" if video.frame_count else ""
        print(f"dekr predict: warning: {source} ends early, after {count}{expected} frames", file=sys.stderr)
    rate = f", {(count - 1) / seconds:.1f} frames/s" if count > 1 else ""
    people = f", people followed: {tracker.people}" if tracker else ""
    print(f"{source}: {count} frame{'s' if count > 1 else ''}{rate}{people}")


@contextlib.contextmanager
def _open_text(path: Path) -> Iterator:
    from dekr_tf.files.outputs import atomic_output

    with atomic_output(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def _interrupt_ends() -> Iterator[threading.Event]:
    """The first ctrl-C sets the event instead of ending the program, so that a camera's frames so far are kept."""
    stopped = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def stop(number, frame):
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _json_frames(file, video: "VideoReader", schema: "KeypointSchema") -> Iterator[AddFrame]:
    """Writes a JSON mapping, each frame as it comes."""
    head = {
        "source": video.source,
        "width": video.size[1],
        "height": video.size[0],
        "frame_rate": video.frame_rate,
        "keypoints": schema.names,
    }
    file.write(json.dumps(head)[:-1] + ', "frames": [')
    comma = "\n"

    def add(number, seconds, poses):
        nonlocal comma
        file.write(comma + json.dumps({"frame": number, "time": round(seconds, 3), "poses": poses.to_coco()}))
        comma = ",\n"

    yield add
    file.write("\n]}\n")


@contextlib.contextmanager
def _csv_frames(file, video: "VideoReader", schema: "KeypointSchema") -> Iterator[AddFrame]:
    """Writes a table with a row for each person in each frame."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["frame", "time", "track_id", "score", *keypoint_columns(schema)])

    def add(number, seconds, poses):
        for person in poses.to_coco():
            track = person.get("track_id")
            writer.writerow([number, round(seconds, 3), track, person["score"], *person["keypoints"]])

    yield add


_FORMATS = {".json": _json_frames, ".csv": _csv_frames}
