"""Skeletons: which keypoints a person has and how they relate. One object drives flips, OKS, pose NMS and drawing."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import read_json, read_yaml
from dekr_tf.files.json_values import LARGEST, is_finite_number, is_whole_number, received

_log = logging.getLogger(__name__)

#: Within the range of COCO's, 0.025 to 0.107.
DEFAULT_OKS_SIGMA = 0.05


@dataclass(frozen=True)
class KeypointSchema:
    """A skeleton of K keypoints. The center that DEKR adds is not part of it; it is the last heatmap channel, index K.

    Attributes:
        name: of the skeleton, for messages and files.
        names: the K keypoint names, unique, in channel order.
        flip_pairs: pairs of indices that a horizontal flip exchanges (left and right).
        edges: pairs of indices joined by a limb; for drawing and rescoring.
        oks_sigmas: K falloffs of the object keypoint similarity, per sqrt(area). Default: 0.05 for every keypoint.
        normalization_edges: pairs of indices; the mean of their lengths is a person's size for rescoring (both sides of
            the torso). Empty: no rescoring for this skeleton.

    Raises:
        InputError: there are no names or they repeat, an index is out of range or used twice in `flip_pairs`, or
            `oks_sigmas` are not K positive numbers.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    oks_sigmas: tuple[float, ...] = ()
    normalization_edges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        count = len(self.names)
        if count < 1:
            raise InputError(f"skeleton {self.name}: a skeleton needs at least one keypoint")
        if len(set(self.names)) != count:
            raise InputError(f"skeleton {self.name}: keypoint names must be unique. Received: {list(self.names)}")
        if not self.oks_sigmas:
            object.__setattr__(self, "oks_sigmas", (DEFAULT_OKS_SIGMA,) * count)
        if len(self.oks_sigmas) != count or not all(0 < sigma < math.inf for sigma in self.oks_sigmas):
            raise InputError(
                f"skeleton {self.name}: oks_sigmas must be {count} positive numbers. Received: {list(self.oks_sigmas)}"
            )
        for field in ("flip_pairs", "edges", "normalization_edges"):
            for pair in getattr(self, field):
                if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= index < count for index in pair):
                    raise InputError(
                        f"skeleton {self.name}: {field} must join two different keypoints of 0..{count - 1}. "
                        f"Received: {list(pair)}"
                    )
        flipped = [index for pair in self.flip_pairs for index in pair]
        if len(set(flipped)) != len(flipped):
            raise InputError(
                f"skeleton {self.name}: a keypoint may stand in one flip pair only. Received: {list(self.flip_pairs)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flip_indices(self) -> tuple[int, ...]:
        """K indices: keypoint i of a mirrored person is keypoint `flip_indices[i]` of the person."""
        indices = list(range(len(self)))
        for left, right in self.flip_pairs:
            indices[left], indices[right] = right, left
        return tuple(indices)

    def to_dict(self) -> dict[str, Any]:
        """A plain mapping that `from_dict` reads, with keypoints by name; it can be written as JSON or YAML."""

        def by_name(pair):
            return [self.names[index] for index in pair]

        return {
            "name": self.name,
            "names": list(self.names),
            "flip_pairs": [by_name(pair) for pair in self.flip_pairs],
            "edges": [by_name(pair) for pair in self.edges],
            "oks_sigmas": list(self.oks_sigmas),
            "normalization_edges": [by_name(pair) for pair in self.normalization_edges],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "KeypointSchema":
        """Builds a schema from a mapping of `names` and any other attributes, with pairs by keypoint name or index.

        Raises:
            InputError: a key is unknown or missing, or a value does not fit.
        """
        name = values.get("name", "custom")
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown or "names" not in values:
            expected = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"skeleton {name}: needs names; known keys are {expected}. Received: {sorted(values)}")

        def listed(value, what):
            # A string would pass for a list of its letters.
            if not isinstance(value, list | tuple):
                raise InputError(f"skeleton {name}: expected a list as {what}. Received: {value!r}")
            return value

        def position(value, what):
            if not is_whole_number(value, -LARGEST):
                raise InputError(f"skeleton {name}: expected names or positions in {what}. Received: {received(value)}")
            return int(value)

        def number(value):
            if not is_finite_number(value):
                raise InputError(
                    f"skeleton {name}: expected positive numbers as oks_sigmas. Received: {received(value)}"
                )
            return float(value)

        try:
            names = tuple(str(keypoint) for keypoint in listed(values["names"], "names"))
            positions = {keypoint: index for index, keypoint in enumerate(names)}

            def pairs(key):
                return tuple(
                    tuple(
                        positions[item] if isinstance(item, str) else position(item, key)
                        for item in listed(pair, f"pair of {key}")
                    )
                    for pair in listed(values.get(key) or (), key)
                )

            return cls(
                name=str(name),
                names=names,
                flip_pairs=pairs("flip_pairs"),
                edges=pairs("edges"),
                oks_sigmas=tuple(number(sigma) for sigma in listed(values.get("oks_sigmas") or (), "oks_sigmas")),
                normalization_edges=pairs("normalization_edges"),
            )
        except KeyError as error:
            raise InputError(f"skeleton {name}: no keypoint has this name. Received: {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"skeleton {name}: {error}") from error


COCO = KeypointSchema(
    name="coco",
    # Keypoints and sigmas: the COCO keypoint task, https://cocodataset.org/#keypoints-eval. The edges are in the order
    # of the reference's rescoring features.
    names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    edges=(
        (0, 1),
        (0, 2),
        (1, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
        (5, 6),
        (5, 7),
        (5, 11),
        (6, 8),
        (6, 12),
        (7, 9),
        (8, 10),
        (11, 12),
        (11, 13),
        (12, 14),
        (13, 15),
        (14, 16),
    ),
    oks_sigmas=(
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ),
    normalization_edges=((5, 11), (6, 12)),
)

CROWDPOSE = KeypointSchema(
    name="crowdpose",
    # Keypoints and sigmas: the CrowdPose toolkit (crowdpose-api, cocoeval.py). The edges are in the order as above.
    names=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "head",
        "neck",
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    edges=(
        (12, 13),
        (13, 0),
        (13, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (0, 6),
        (1, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (9, 11),
        (6, 7),
        (0, 1),
    ),
    oks_sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    # The left thigh and shin: not a torso, but what the reference's CrowdPose rescoring nets were trained with.
    normalization_edges=((6, 8), (8, 10)),
)

# `LeftEye` has two words, and so have `LEye`, `eyeL` and `eye (left)`; digits are words of their own.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}

SCHEMAS = {schema.name: schema for schema in (COCO, CROWDPOSE)}


def load_schema(source: str | Mapping[str, Any], category: int | str | None = None) -> KeypointSchema:
    """A schema by name (`coco`, `crowdpose`), from a YAML or JSON file, or from a mapping.

    Args:
        source: a mapping for `KeypointSchema.from_dict`, a file with one, or an annotation file in COCO's format, whose
            `categories` define the skeleton (see `schema_from_categories`).
        category: name or id of the category of an annotation file whose skeleton to take.

    Raises:
        InputError: there is no such name or file, or its content does not make a schema.
    """
    if isinstance(source, Mapping):
        return KeypointSchema.from_dict(source)
    if source in SCHEMAS:
        return SCHEMAS[source]
    path = Path(source)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(
            f"skeleton: expected {', '.join(SCHEMAS)}, a mapping, or the path of a .yaml or .json file. "
            f"Received: {source}"
        )
    # JSON is YAML too, but PyYAML takes 200 times as long, too long for an annotation file.
    values = (read_json if path.suffix == ".json" else read_yaml)(path, "skeleton")
    if not isinstance(values, Mapping):
        raise InputError(f"skeleton {path}: expected a mapping. Received: {type(values).__name__}")
    if "categories" in values:
        return schema_from_categories(values["categories"], path.stem, category)
    return KeypointSchema.from_dict({"name": path.stem, **values})


def schema_from_categories(categories: Any, name: str, category: int | str | None = None) -> KeypointSchema:
    """The skeleton that an annotation file in COCO's format describes (https://cocodataset.org/#format-data).

    If the keypoints have the names and order of COCO's or CrowdPose's, the result is that skeleton, whatever edges the
    file has: CrowdPose's own file has the edges of another skeleton.

    Otherwise two keypoints are a flip pair if their names differ only in the words `left` and `right`, or `l` and `r`,
    wherever these stand: `left_eye` and `right_eye`, `LeftEye`, `LEye`, `eyeL`, `front_left_paw`, `eye (left)` or
    `Eye.L`. Capital letters, and characters that are neither letters nor digits, separate words. If this finds no pair,
    `l` and `r` may also be the first or last letter of a word (`Leye`, `Reye`), provided that several pairs result.

    A keypoint with the name of one of COCO's has its OKS sigma; any other has 0.05. Rescoring needs
    `normalization_edges`, which such a file does not have.

    Args:
        categories: the list of that name: `keypoints` are names, `skeleton` pairs of positions that count from 1.
        name: of the skeleton.
        category: name or id of the one category that counts. Default: all with keypoints.

    Raises:
        InputError: there is no such category, none has keypoints, several have different ones, or they do not make a
            schema.
    """
    if not isinstance(categories, list) or not all(isinstance(each, Mapping) for each in categories):
        raise InputError(f"skeleton {name}: expected a list of mappings as categories. Received: {categories!r:.80}")
    if category is not None:
        categories = find_categories(categories, category, f"skeleton {name}")
    found = [each for each in categories if each.get("keypoints")]
    if not found:
        raise InputError(f"skeleton {name}: expected keypoints in the categories. Received: {len(categories)} without")
    keypoints, skeleton = found[0]["keypoints"], found[0].get("skeleton") or []
    if any(each["keypoints"] != keypoints for each in found):
        raise InputError(
            f"skeleton {name}: expected the same keypoints in all categories; --category or data.category chooses one. "
            f"Received: {describe_categories(found)}"
        )
    if not isinstance(keypoints, list) or not all(isinstance(keypoint, str) for keypoint in keypoints):
        raise InputError(f"skeleton {name}: expected names as keypoints. Received: {keypoints!r:.80}")
    for schema in SCHEMAS.values():
        if schema.names == tuple(keypoints):
            return schema
    for edge in skeleton if isinstance(skeleton, list) else [skeleton]:
        fits = isinstance(edge, list) and all(is_whole_number(end, 1, len(keypoints)) for end in edge)
        if not fits or len(edge) != 2:
            raise InputError(
                f"skeleton {name}: expected as skeleton of the category pairs of positions in 1..{len(keypoints)}. "
                f"Received: {edge!r:.80}"
            )
    sigmas = dict(zip(COCO.names, COCO.oks_sigmas, strict=True))
    return KeypointSchema.from_dict(
        {
            "name": name,
            "names": keypoints,
            "flip_pairs": _flip_pairs(keypoints),
            "edges": [[first - 1, second - 1] for first, second in skeleton],
            "oks_sigmas": [sigmas.get(keypoint, DEFAULT_OKS_SIGMA) for keypoint in keypoints],
        }
    )


def find_categories(categories: Any, category: int | str, where: str) -> list[Mapping[str, Any]]:
    """The entries of `categories` with this name or id; `where` begins the error message.

    Raises:
        InputError: there is none.
    """
    entries = [each for each in categories if isinstance(each, Mapping)] if isinstance(categories, list) else []
    found = [each for each in entries if str(category) in (str(each.get("id")), each.get("name"))]
    if not found:
        raise InputError(f"{where}: expected the category {category}. Received: {describe_categories(entries)}")
    return found


def describe_categories(categories: Sequence[Mapping[str, Any]]) -> str:
    """Names and ids of categories, for messages."""
    return ", ".join(f"{each.get('name')} ({each.get('id')})" for each in categories) or "no categories"


def warn_without_flip_pairs(schema: KeypointSchema, use: str, remedy: str) -> None:
    """Logs a warning if mirroring would leave left and right keypoints unexchanged.

    Args:
        schema: of the people.
        use: what mirrors them.
        remedy: the alternative to flip pairs, as the end of the message.
    """
    if len(schema) > 1 and not schema.flip_pairs:
        _log.warning(
            "%s mirrors people, but skeleton %s has no flip pairs, so that left keypoints stay left ones. Write "
            "flip_pairs into the skeleton, or %s",
            use,
            schema.name,
            remedy,
        )


def _flip_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Index pairs, left before right, of names that differ only in the side."""
    words = [_words(name) for name in names]
    if pairs := _pairs(words):
        return pairs
    # `Leye`, `Reye`: the letter is part of a word. A single such pair may be chance: leap and reap.
    for split in (lambda word: (word[:1], word[1:]), lambda word: (word[:-1], word[-1:])):
        pairs = _pairs(
            [tuple(part for word in name for part in (split(word) if len(word) > 3 else [word])) for name in words]
        )
        if len(pairs) > 1:
            return pairs
    return []


def _pairs(words: Sequence[tuple[str, ...]]) -> list[tuple[int, int]]:
    # Names with the same words cannot be told apart.
    positions = {name: index for index, name in enumerate(words) if words.count(name) == 1}
    pairs = []
    for name, index in positions.items():
        other = positions.get(_mirrored(name))
        if other is not None and other != index and _side(name) in ("left", "l"):
            pairs.append((index, other))
    return pairs


def _words(name: str) -> tuple[str, ...]:
    """The words of a keypoint's name in lower case; `lefteye` has two."""
    words = []
    # Capitals separate words, so they are lowered only afterwards.
    for word in map(str.lower, _WORD.findall(name)):
        for side in ("left", "right"):
            if word != side and word.startswith(side):
                words += [side, word[len(side) :]]
                break
            if word != side and word.endswith(side):
                words += [word[: -len(side)], side]
                break
        else:
            words.append(word)
    return tuple(words)


def _side(words: Sequence[str]) -> str | None:
    """The word that names the side: `left` or `right`, else `l` or `r` beside another word."""
    spelled = [word for word in words if word in ("left", "right")]
    letters = [word for word in words if word in ("l", "r")] if any(len(word) > 1 for word in words) else []
    return next(iter(spelled or letters), None)


def _mirrored(words: Sequence[str]) -> tuple[str, ...]:
    side = _side(words)
    sides = (side, _OTHER_SIDE.get(side))
    return tuple(_OTHER_SIDE[word] if word in sides else word for word in words)
