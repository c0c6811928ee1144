"""What the verbs on photos share: they name photos that cannot be used, and print, write or draw people."""

import argparse
import csv
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dekr_tf.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from dekr_tf.keypoints import KeypointSchema
    from dekr_tf.poses import Poses

T = TypeVar("T")

# Suffixes, in lower case, of photos whose drawing is written without loss.
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


def usable_photos(
    images: Sequence[Path], answers: Iterable[T | InputError], refused: list[Path]
) -> Iterator[tuple[Path, T]]:
    """Goes through many photos, names those that cannot be used on standard error, and goes on.

    Args:
        images: the photos.
        answers: the result for each, or why it cannot be used. They may be computed one by one.
        refused: receives the photos that cannot be used; call `check_none_refused` with it in the end.

    Yields:
        Each of the other photos with its result.
    """
    from tqdm import tqdm

    # A line is written by `tqdm.write` to keep the progress bar below it.
    rounds = zip(images, answers, strict=True)
    for path, answer in tqdm(rounds, total=len(images), unit="photo", disable=not sys.stderr.isatty()):
        if isinstance(answer, InputError):
            refused.append(path)
            tqdm.write(" ".join(f"{path}: {answer}".split()), file=sys.stderr)
        else:
            yield path, answer


def check_none_refused(refused: Sequence[Path], images: Sequence[Path]) -> None:
    """Raises InputError if photos could not be used, so that the program ends with exit code 2."""
    if refused:
        raise InputError(f"expected photos that can be used. Received: {len(refused)} of {len(images)} that cannot")


def report_people(
    arguments: argparse.Namespace,
    images: Sequence[Path],
    drawings: Mapping[Path, Path],
    answers: "Iterable[tuple[Poses, np.ndarray | None] | InputError]",
    schema: "KeypointSchema",
) -> None:
    """Prints a line for each photo, or writes and draws the people in it.

    Args:
        arguments: `output` and `min_score` of the command line.
        images: the photos.
        drawings: where the drawing of each goes; empty if none is wanted.
        answers: the people in each photo, and the photo (H, W, 3) uint8 RGB, or None to read it from its file; or why
            it cannot be used.
        schema: the skeleton.

    Raises:
        InputError: an output cannot be written; or, after all else is done, photos could not be used.
    """
    from tqdm import tqdm

    from dekr_tf.files.images import read_image, write_image
    from dekr_tf.visualization.drawing import draw_poses

    found, refused = {}, []
    for path, (poses, photo) in usable_photos(images, answers, refused):
        found[path] = poses
        if path in drawings:
            canvas = read_image(path, exif_orientation=True) if photo is None else photo
            shown = dataclasses.replace(poses, schema=schema).filter(arguments.min_score)
            write_image(draw_poses(canvas, shown), drawings[path])
        if not arguments.output and not drawings:
            tqdm.write(summary(poses.filter(arguments.min_score), path))
    if arguments.output:
        write_people(found, image_names(images), arguments.output, schema)
    check_none_refused(refused, images)


def output_format(path: Path) -> str:
    """The format of a file of people by its name, `.json` or `.csv`; JSON for names without suffix, as of devices.

    Raises:
        InputError: it has another suffix.
    """
    suffix = path.suffix.lower() or ".json"
    if suffix not in (".json", ".csv"):
        raise InputError(f"--output: expected a file name in .json or .csv. Received: {path}")
    return suffix


def write_people(
    found: "Mapping[Path, Poses]", names: Mapping[Path, dict[str, Any]], output: Path, schema: "KeypointSchema"
) -> None:
    """Writes the people in photos as a list in COCO results format, or as a table with a row for each person.

    Args:
        found: by photo.
        names: of `image_names`.
        output: see `output_format`.
        schema: names the columns of a table.

    Raises:
        InputError: the file cannot be written, or is a table and the poses are of another skeleton.
    """
    from dekr_tf.files.outputs import atomic_output, write_text

    if output_format(output) == ".json":
        people = [person for path, poses in found.items() for person in poses.to_coco(**names[path])]
        write_text(output, json.dumps(people))
        return
    # A file name that is not text is written with escapes, as in JSON.
    with (
        atomic_output(output) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "file_name", "score", *keypoint_columns(schema)])
        for path, poses in found.items():
            for person in dataclasses.replace(poses, schema=schema).to_coco(**names[path]):
                writer.writerow([person.get("image_id"), person["file_name"], person["score"], *person["keypoints"]])


def keypoint_columns(schema: "KeypointSchema") -> list[str]:
    """The headings of a table for the numbers of `Poses.to_coco`."""
    return [f"{name}_{value}" for name in schema.names for value in ("x", "y", "score")]


def image_names(images: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """The entries that name each photo in COCO results format.

    `file_name` is the path as found; `image_id` is the number in a name such as COCO's 000000000785.jpg. Other names
    have no `image_id`, nor have photos that would share one.
    """
    numbers = {path: int(path.stem) for path in images if path.stem.isdecimal()}
    count = Counter(numbers.values())
    return {
        path: {
            **({"image_id": numbers[path]} if count[numbers.get(path)] == 1 else {}),
            "file_name": path.as_posix(),
        }
        for path in images
    }


def summary(poses: "Poses", path: Path | str) -> str:
    """One line to print, with the scores of the people, best first."""
    line = f"{path}: 1 person" if len(poses) == 1 else f"{path}: {len(poses)} people"
    return f"{line}, scores {' '.join(f'{score:.2f}' for score in poses.scores)}" if len(poses) else line


def drawing_paths(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The path of each photo's drawing: its name in `folder`, numbered if several photos share it."""
    taken = set()
    paths = {}
    for image in images:
        suffix = ".png" if image.suffix.lower() in _LOSSLESS else ".jpg"
        name, number = image.stem + suffix, 2
        # Some file systems do not tell upper case from lower case.
        while name.lower() in taken:
            name, number = f"{image.stem}_{number}{suffix}", number + 1
        taken.add(name.lower())
        paths[image] = folder / name
    return paths
