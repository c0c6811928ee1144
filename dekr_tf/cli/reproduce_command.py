"""Measure the rows of one of the paper's tables, and print our figures beside the paper's.

  dekr reproduce table1                                                        sizes of the ablation's offset heads
  dekr reproduce table2 --weights DIR --coco DIR                               COCO val2017
  dekr reproduce table3                                                        sizes of both networks
  dekr reproduce table5 --weights DIR --coco DIR                               AP and errors of the ablation
  dekr reproduce table6 --weights DIR --coco DIR --crowdpose DIR               with matching
  dekr reproduce table7 --weights DIR --crowdpose DIR                          CrowdPose test

Tables 1 and 3 need nothing but the code. The figures beside ours are those of the printed paper; where one is only on
the authors' page, the second line of the output says so.

The weights are the files that the authors publish, as .pth, or imported under the same name as .keras (networks) and
.npz (rescoring nets). A .keras file brings its own settings, so a network of another size runs too. Those of the
ablation are not published; train them with the configs of their names.

It runs the rows whose files are all there; for the others, it lists the missing files and where to get them. Accuracy
is in percent; "-" stands for a figure of people who are not in the images. COCO's test-dev (Table 4) is not measured
here, since its labels are withheld: `dekr evaluate --results-output` writes the file that its server takes.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dekr_tf.errors import InputError
from dekr_tf.evaluation.paper_tables import AUTHORS, DATA_SETS, PUBLISHED, SIZES, TABLES, Row, Table
from dekr_tf.files.inputs import exists, is_folder
from dekr_tf.files.outputs import check_outputs, write_text

if TYPE_CHECKING:
    import keras

    from dekr_tf.files.coco_format import ImageLabels
    from dekr_tf.inference.rescoring import RescoringNet
    from dekr_tf.sidecar import Sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("table", choices=tuple(TABLES), metavar="TABLE", help=f"one of {', '.join(TABLES)}")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of the checkpoints and rescoring nets")
    for data in DATA_SETS.values():
        places = f"{data.annotations[0]} and {data.images[0]}"
        parser.add_argument(data.option, type=Path, metavar="DIR", help=f"folder of {data.name}: {places}")
    parser.add_argument("--limit", type=int, metavar="N", help="run on the first N images only: a trial, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        InputError: a folder is missing, no row has all of its files, or a file does not fit its row.
    """
    table = TABLES[arguments.table]
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit: expected a positive number of images. Received: {arguments.limit}")
    check_outputs([arguments.json])
    print(f"{arguments.table}: {table.title}")
    print(f"paper's figures: {table.source}")
    report = {"table": arguments.table, "title": table.title, "source": table.source}
    report |= _accuracy(table, arguments) if table.rows[0].checkpoint else _sizes(table)
    if arguments.json:
        write_text(arguments.json, json.dumps(report, indent=2) + "\n")


def _sizes(table: Table) -> dict[str, Any]:
    """Counts and prints the rows of a table about sizes, and returns their part of `--json`."""
    from dekr_tf.models.complexity import count_complexity

    _print_header(table)
    rows = []
    for row in table.rows:
        counts = count_complexity(row.config)
        rows.append(_compare(table, row, {column: counts[key] / unit for column, (key, unit) in SIZES.items()}))
    return {"rows": rows}


@dataclass
class _Places:
    """The files of a row by kind, and descriptions of the missing ones."""

    found: dict[str, Path]
    missing: list[str]


def _accuracy(table: Table, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints the rows that have all of their files, and returns the table's part of `--json`."""
    options = ("--weights", *dict.fromkeys(row.data.option for row in table.rows))
    folders = {option: getattr(arguments, option.removeprefix("--")) for option in options}
    for option, folder in folders.items():
        if folder is not None and not is_folder(folder):
            raise InputError(f"{option}: expected a folder. Received: {folder}")
    places = [_find_files(row, folders) for row in table.rows]
    missing = dict.fromkeys(line for place in places for line in place.missing)
    if missing:
        print("missing files:", *missing, sep="\n  ")
    runnable = [(row, place.found) for row, place in zip(table.rows, places, strict=True) if not place.missing]
    if not runnable:
        given = [f"{option} {_content(folder)}" for option, folder in folders.items()]
        raise InputError(
            f"{arguments.table}: expected the files of at least one row, as listed. Received: {'; '.join(given)}"
        )

    check_outputs([arguments.json], (file for _, found in runnable for file in found.values()))
    # Everything is opened before the long work, so that a wrong file is found first.
    models, nets, labels = {}, {}, {}
    for row, found in runnable:
        if (path := found["model"]) not in models:
            models[path] = _open_model(path, row)
        if (path := found["rescoring"]) not in nets:
            nets[path] = _open_rescoring_net(path, row)
        if (path := found["annotations"]) not in labels:
            labels[path] = _read_labels(row, found, arguments.limit)
    _print_header(table)
    rows = []
    for row, place in zip(table.rows, places, strict=True):
        ours = {}
        if not place.missing:
            found = place.found
            net, people = nets[found["rescoring"]], labels[found["annotations"]]
            ours = _measure(table, row, found, *models[found["model"]], net, people)
        rows.append(_compare(table, row, ours, place.missing))
    images = {str(path): len(each) for path, each in labels.items()}
    return {"images": images, "limit": arguments.limit, "rows": rows}


def _find_files(row: Row, folders: Mapping[str, Path | None]) -> _Places:
    """The files of a row."""
    data = row.data
    places = _Places({}, [])
    for kind, option, names, published in (
        ("model", "--weights", _weight_names(row.checkpoint, ".keras"), _where_published(row.checkpoint)),
        ("rescoring", "--weights", _weight_names(data.rescoring, ".npz"), _where_published(data.rescoring)),
        ("annotations", data.option, data.annotations, data.published),
        ("images", data.option, data.images, data.published),
    ):
        folder = folders[option]
        file = next((folder / name for name in names if exists(folder / name)), None) if folder else None
        if file:
            places.found[kind] = file
        else:
            paths = " or ".join(str(folder / name) if folder else name for name in names)
            places.missing.append(f"{paths} ({'' if folder else f'in the folder of {option}; '}{published})")
    return places


def _weight_names(name: str, suffix: str) -> tuple[str, ...]:
    """Possible paths of weights in their folder: imported, as published, and in the folders of the authors' page."""
    published = (f"{name}.pth", f"{PUBLISHED[name]}/{name}.pth") if name in PUBLISHED else ()
    return (f"{name}{suffix}", *published)


def _where_published(name: str) -> str:
    if name in PUBLISHED:
        return f"{AUTHORS}, model zoo"
    return f"not published: last.keras of dekr train --config configs/{name}.yaml"


def _content(folder: Path | None) -> str:
    """A folder and the first names in it."""
    if folder is None:
        return "not given"
    names = sorted(path.name for path in folder.iterdir())
    return f"{folder} with {', '.join(names[:3]) or 'nothing in it'}{', ...' if len(names) > 3 else ''}"


def _open_model(path: Path, row: Row) -> "tuple[keras.Model, Sidecar]":
    """A network and its settings, which are those of the row if no sidecar is beside it."""
    from dekr_tf.sidecar import Sidecar, sidecar_path

    if path.suffix == ".pth":
        from converters.from_torch import import_checkpoint

        model, sidecar = import_checkpoint(path, row.config), Sidecar.from_config(row.config)
        if model.name != "dekr":
            raise InputError(f"{path}: expected the checkpoint of a DEKR. Received: {model.name}")
    else:
        from dekr_tf.models.files import load_model

        model, sidecar = load_model(path, None if exists(sidecar_path(path)) else row.config)
        if (sidecar.model, sidecar.input_size) != (row.config.model, row.config.input_size):
            print(f"note: {path} is another network than the paper's")
    if sidecar.schema.names != row.config.schema.names:
        raise InputError(
            f"{path}: expected a model of the skeleton {row.config.schema.name}, for {row.data.name}. "
            f"Received: one of {sidecar.schema.name}, {len(sidecar.schema)} keypoints"
        )
    return model, sidecar


def _open_rescoring_net(path: Path, row: Row) -> "RescoringNet":
    from dekr_tf.inference.rescoring import open_rescoring_net

    if path.suffix != ".pth":
        return open_rescoring_net(path, row.config.schema)
    from converters.from_torch import import_checkpoint
    from dekr_tf.training.rescoring import to_rescoring_net

    model = import_checkpoint(path, row.config)
    if model.name != "rescoring":
        raise InputError(f"{path}: expected the checkpoint of a rescoring net. Received: {model.name}")
    return to_rescoring_net(model, row.config.schema)


def _read_labels(row: Row, found: Mapping[str, Path], limit: int | None) -> "list[ImageLabels]":
    """The labels of a row, after a check that their images are there; prints how many it uses."""
    from dekr_tf.evaluation.evaluator import METRICS
    from dekr_tf.files.coco_format import read_labels
    from dekr_tf.files.images import check_images

    labels = read_labels(found["annotations"], row.config.schema)
    part = labels[:limit]
    METRICS[row.data.metric](part, [], row.config.schema)
    check_images([image.file_name for image in part], found["images"])
    only = f", the first of {len(labels)}: no result to compare" if len(part) < len(labels) else ""
    print(f"{row.data.name}: {len(part)} images{only}")
    return part


def _measure(
    table: Table,
    row: Row,
    found: Mapping[str, Path],
    model: "keras.Model",
    sidecar: "Sidecar",
    net: "RescoringNet",
    labels: "list[ImageLabels]",
) -> dict[str, float]:
    """The metric and, if the table has them, errors, in percent; without figures of people who are not there."""
    from dekr_tf.evaluation.error_analysis import KINDS, analyze_errors
    from dekr_tf.evaluation.evaluator import evaluate_detector
    from dekr_tf.inference.detector import PoseDetector

    detector = PoseDetector(model, sidecar, flip=True, scales=row.scales, match=row.match, rescore=net)
    metrics, results = evaluate_detector(detector, labels, found["images"], metric=row.data.metric, progress=True)
    if set(KINDS) & set(table.columns):
        metrics |= analyze_errors(labels, results, row.config.schema).shares
    return {name: 100 * value for name, value in metrics.items() if value >= 0}


def _compare(table: Table, row: Row, ours: Mapping[str, float], missing: Iterable[str] = ()) -> dict[str, Any]:
    """Prints a row, and returns its part of `--json`: each cell with ours, the paper's and ours minus the paper's."""
    cells = {}
    for column, printed in zip(table.columns, row.paper, strict=True):
        own, paper = ours.get(column), float(printed)
        difference = None if own is None else own - paper
        cells[column] = {"ours": own, "paper": paper, "difference": difference}
    lines = {
        "ours": [_text(cell["ours"], ".2f") for cell in cells.values()] if ours else ["not run"],
        "paper": row.paper,
        "difference": [_text(cell["difference"], "+.2f") for cell in cells.values()],
    }
    for name, values in zip((row.name, "", ""), lines, strict=True):
        print(_line(table, name, values, lines[values]), flush=True)
    return {"name": row.name, "cells": cells, "missing": list(missing)}


def _print_header(table: Table) -> None:
    print()
    print(_line(table, "", "", table.columns))


def _line(table: Table, name: str, kind: str, values: Iterable[str]) -> str:
    width = max(len(row.name) for row in table.rows)
    cells = (f"{value:>{max(len(column), 7)}}" for column, value in zip(table.columns, values, strict=False))
    return "  ".join([f"{name:{width}}", f"{kind:10}", *cells]).rstrip()


def _text(value: float | None, form: str) -> str:
    # Adding zero turns -0 into 0.
    return "-" if value is None else format(round(value, 2) + 0.0, form)
