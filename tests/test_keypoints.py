import json

import pytest
import yaml

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.keypoints import (
    COCO,
    CROWDPOSE,
    KeypointSchema,
    load_schema,
    schema_from_categories,
    warn_without_flip_pairs,
)

HAND = {
    "name": "hand",
    "names": ["left_thumb", "right_thumb", "palm"],
    "flip_pairs": [["left_thumb", "right_thumb"]],
    "edges": [["palm", "left_thumb"], ["palm", "right_thumb"]],
    "oks_sigmas": [0.03, 0.03, 0.1],
    "normalization_edges": [["palm", "left_thumb"]],
}


@pytest.mark.parametrize(("schema", "count", "edges"), [(COCO, 17, 19), (CROWDPOSE, 14, 15)])
def test_built_in_schemas_pair_left_with_right(schema, count, edges):
    assert len(schema) == count
    assert len(schema.edges) == len(set(schema.edges)) == edges
    sides = {index for index, name in enumerate(schema.names) if name.startswith(("left_", "right_"))}
    assert {index for pair in schema.flip_pairs for index in pair} == sides
    for left, right in schema.flip_pairs:
        assert schema.names[left].replace("left_", "right_") == schema.names[right]
        assert schema.oks_sigmas[left] == schema.oks_sigmas[right]


def test_coco_sigmas_are_those_of_pycocotools():
    from pycocotools.cocoeval import Params

    assert list(COCO.oks_sigmas) == pytest.approx(Params(iouType="keypoints").kpt_oks_sigmas)


def test_crowdpose_sigmas_are_those_of_coco_by_name():
    shared = [name for name in CROWDPOSE.names if name in COCO.names]
    assert len(shared) == 12
    for name in shared:
        assert CROWDPOSE.oks_sigmas[CROWDPOSE.names.index(name)] == COCO.oks_sigmas[COCO.names.index(name)]


def test_flip_indices():
    assert COCO.flip_indices == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    for schema in (COCO, CROWDPOSE):
        assert tuple(schema.flip_indices[index] for index in schema.flip_indices) == tuple(range(len(schema)))


@pytest.mark.parametrize("schema", [COCO, CROWDPOSE, KeypointSchema.from_dict(HAND)], ids=lambda schema: schema.name)
def test_round_trip_through_json(schema):
    assert KeypointSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_only_names_are_needed():
    schema = KeypointSchema.from_dict({"names": ["tip", "end"]})
    assert schema == KeypointSchema(name="custom", names=("tip", "end"), oks_sigmas=(0.05, 0.05))
    assert schema.flip_indices == (0, 1)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_load_from_a_file_by_names_or_by_indices(tmp_path, suffix):
    write = json.dumps if suffix == ".json" else yaml.safe_dump
    by_name, by_index = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    by_name.write_text(write(HAND))
    indices = {"flip_pairs": [[0, 1]], "edges": [[2, 0], [2, 1]], "normalization_edges": [[2, 0]]}
    by_index.write_text(write(HAND | indices))
    schema = load_schema(str(by_name))
    assert schema == load_schema(str(by_index)) == load_schema(HAND)
    assert schema.edges == ((2, 0), (2, 1))
    assert schema.flip_indices == (1, 0, 2)


def test_a_file_gives_its_name_to_a_schema_without(tmp_path):
    path = tmp_path / "paw.yaml"
    path.write_text("names: [heel, toe]")
    assert load_schema(str(path)).name == "paw"


def test_load_by_name():
    assert load_schema("coco") is COCO
    assert load_schema("crowdpose") is CROWDPOSE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": [], "flip_pairs": [], "edges": [], "normalization_edges": []}, "at least one keypoint"),
        ({"names": ["left_thumb", "palm", "right_thumb", "palm"]}, r"must be unique. Received: \['left_thumb', 'palm'"),
        ({"oks_sigmas": [0.1, 0.1]}, r"oks_sigmas must be 3 positive numbers. Received: \[0.1, 0.1\]"),
        ({"oks_sigmas": [0.1, 0.1, 0]}, "3 positive numbers"),
        ({"oks_sigmas": ["wide"] * 3}, "skeleton hand: expected positive numbers as oks_sigmas. Received: 'wide'"),
        ({"oks_sigmas": [10**400] * 3}, "positive numbers as oks_sigmas. Received: a number beyond"),
        ({"edges": [[0, True]]}, "expected names or positions in edges. Received: True"),
        ({"edges": [[0, float("inf")]]}, "expected names or positions in edges. Received: inf"),
        ({"flip_pairs": [[0, 1.5]]}, "expected names or positions in flip_pairs. Received: 1.5"),
        ({"edges": [[0, 3]]}, r"edges must join two different keypoints of 0..2. Received: \[0, 3\]"),
        ({"edges": [[0, -1]]}, "two different keypoints"),
        ({"edges": [[1, 1]]}, "two different keypoints"),
        ({"edges": [[0, 1, 2]]}, "two different keypoints"),
        ({"oks_sigmas": [0.1, 0.1, float("nan")]}, "expected positive numbers as oks_sigmas. Received: nan"),
        ({"oks_sigmas": 0.1}, "expected a list as oks_sigmas. Received: 0.1"),
        ({"edges": 5}, "expected a list as edges. Received: 5"),
        ({"edges": ["palm", "left_thumb"]}, "expected a list as pair of edges. Received: 'palm'"),
        ({"names": "palm"}, "expected a list as names. Received: 'palm'"),
        ({"normalization_edges": [["palm", "wrist"]]}, "no keypoint has this name. Received: wrist"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "one flip pair only"),
        ({"limbs": []}, "known keys are name, names, .*Received: .*'limbs'"),
    ],
)
def test_each_error_names_the_skeleton_and_what_it_received(change, message):
    with pytest.raises(InputError, match=message) as error:
        KeypointSchema.from_dict(HAND | change)
    assert str(error.value).startswith("skeleton hand: ")


def test_names_are_required():
    with pytest.raises(InputError, match="needs names"):
        KeypointSchema.from_dict({"edges": []})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.yaml", None, "cannot read .*gone.yaml"),
        ("broken.yaml", "names: [", "skeleton .*broken.yaml: expected YAML"),
        ("list.yaml", "- nose", "list.yaml: expected a mapping. Received: list"),
        ("skeleton.txt", "names: [nose]", "expected coco, crowdpose, a mapping, or the path"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        load_schema(str(path))
    assert "\n" not in str(error.value)


def category(keypoints, skeleton=()):
    return {"id": 1, "name": "animal", "keypoints": list(keypoints), "skeleton": [list(edge) for edge in skeleton]}


def test_a_schema_of_categories(tmp_path):
    names = [
        "nose",
        "left_eye",
        "right_eye",
        "L-Paw",
        "R-Paw",
        "hip l",
        "hip r",
        "tail.Left",
        "tail.Right",
        "lefty",
        "lip",
    ]
    categories = [{"id": 7, "name": "tree"}, category(names, [(1, 2), (2, 11)])]
    path = tmp_path / "dogs.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    schema = load_schema(str(path))
    assert (schema.name, schema.names) == ("dogs", tuple(names))
    assert schema.flip_pairs == ((1, 2), (3, 4), (5, 6), (7, 8))
    assert schema.edges == ((0, 1), (1, 10))
    assert schema.oks_sigmas == (0.026, 0.025, 0.025, *[0.05] * 8)
    assert schema.normalization_edges == ()


def test_left_pairs_with_right_only_where_the_rest_is_the_same():
    names = ["left_eye", "r_eye", "eye_right", "l_ear", "right_ear", "left_Toe", "RIGHT_toe", "nose_l"]
    assert schema_from_categories([category(names)], "x").flip_pairs == ((5, 6),)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("LeftEye", "RightEye"),
        ("leftEye", "rightEye"),
        ("LEye", "REye"),
        ("eyeL", "eyeR"),
        ("EyeLeft", "EyeRight"),
        ("lefteye", "righteye"),
        ("eyeleft", "eyeright"),
        ("front_left_paw", "front_right_paw"),
        ("frontLPaw", "frontRPaw"),
        ("l_eye", "r_eye"),
        ("L_Eye", "R_Eye"),
        ("left-eye", "right-eye"),
        ("Left Eye", "Right Eye"),
        ("LEFT_EYE", "RIGHT_EYE"),
        ("eye (left)", "eye (right)"),
        ("eye(L)", "eye(R)"),
        ("Eye.L", "Eye.R"),
        ("eye_l_1", "eye_r_1"),
        ("mixamorig:LeftHand", "mixamorig:RightHand"),
        ("left_paw_l", "right_paw_l"),
        ("left", "right"),
        ("left_\u00e9paule", "right_\u00e9paule"),
    ],
)
def test_spellings_of_left_and_right(left, right):
    names = ["nose", right, left, "tail"]
    assert schema_from_categories([category(names)], "x").flip_pairs == ((2, 1),)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["Nose", "Leye", "Reye", "Lear", "Rear"], ((1, 2), (3, 4))),
        (["eyer", "eyel", "nose", "hipl", "hipr"], ((1, 0), (3, 4))),
        (["lhip_1", "rhip_1", "lhip_2", "rhip_2"], ((0, 1), (2, 3))),
        (["left_eye", "right_eye", "leap", "reap", "lest", "rest"], ((0, 1),)),
    ],
)
def test_letters_inside_words_count_where_several_pairs_have_them(names, pairs):
    assert schema_from_categories([category(names)], "x").flip_pairs == pairs


@pytest.mark.parametrize(
    "names",
    [
        ["level", "revel"],
        ["...", "l", "r"],
        ["collar", "corral"],
        ["lip", "rip"],
        ["pedal", "pedar"],
        ["L1", "R1"],
        ["LEye", "right_eye"],
        ["l_eye", "right_eye"],
        ["left_eye", "left_ear"],
        # Which of the two left ones?
        ["left_eye", "LeftEye", "right_eye"],
    ],
)
def test_names_that_are_no_pair(names):
    assert schema_from_categories([category(names)], "x").flip_pairs == ()


def test_the_warning_about_missing_pairs(caplog):
    warn_without_flip_pairs(COCO, "training", "stop")
    warn_without_flip_pairs(KeypointSchema("dot", ("dot",)), "training", "stop")
    assert not caplog.records
    warn_without_flip_pairs(KeypointSchema("dogs", ("eyes", "tail")), "the flip test", "leave it out")
    assert caplog.messages == [
        "the flip test mirrors people, but skeleton dogs has no flip pairs, so that left keypoints stay left ones. "
        "Write flip_pairs into the skeleton, or leave it out"
    ]


@pytest.mark.parametrize("known", [COCO, CROWDPOSE])
def test_categories_with_known_keypoints_give_the_known_skeleton(known):
    # The edges are what CrowdPose's own file has: those of a skeleton of 17 keypoints.
    assert schema_from_categories([category(known.names, [(16, 14), (17, 15)])], "file") is known


def test_the_skeleton_of_one_category(tmp_path):
    dog = {"id": 2, "name": "dog", "keypoints": ["tail", "paw L", "paw R"]}
    categories = [{**category(COCO.names), "id": 1, "name": "person"}, dog]
    for chosen in ("dog", 2, "2"):
        schema = schema_from_categories(categories, "pets", chosen)
        assert (schema.names, schema.flip_pairs) == (("tail", "paw L", "paw R"), ((1, 2),))
    (tmp_path / "pets.json").write_text(json.dumps({"categories": categories}))
    assert load_schema(str(tmp_path / "pets.json"), "person") is COCO
    with pytest.raises(InputError, match=r"chooses one\. Received: person \(1\), dog \(2\)"):
        load_schema(str(tmp_path / "pets.json"))
    with pytest.raises(InputError, match=r"expected the category cat\. Received: person \(1\), dog \(2\)"):
        load_schema(str(tmp_path / "pets.json"), "cat")
    config = Config(keypoints=str(tmp_path / "pets.json"), data={"category": "dog"})
    assert config.schema.names == ("tail", "paw L", "paw R")


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (None, "expected a list of mappings as categories. Received: None"),
        ([], "expected keypoints in the categories. Received: 0 without"),
        ([{"id": 1}], "Received: 1 without"),
        ([category("ab"), category("ba")], r"chooses one\. Received: animal \(1\), animal \(1\)"),
        ([category("ab", [(0, 1)])], r"pairs of positions in 1\.\.2. Received: \[0, 1\]"),
        ([category("ab", [(1, 3)])], r"Received: \[1, 3\]"),
        ([category("ab", [(1, 2, 1)])], r"Received: \[1, 2, 1\]"),
        ([category("aa")], "must be unique"),
        ([category([1, 2])], r"expected names as keypoints. Received: \[1, 2\]"),
    ],
)
def test_categories_that_make_no_skeleton(categories, message):
    with pytest.raises(InputError, match=message):
        schema_from_categories(categories, "x")


def test_a_json_file_is_read_as_json(tmp_path):
    path = tmp_path / "hand.json"
    # YAML takes no tabs.
    path.write_text(json.dumps(HAND, indent="\t"))
    assert load_schema(str(path)) == KeypointSchema.from_dict(HAND)
    path.write_text("name: hand")
    with pytest.raises(InputError, match=r"^skeleton .*hand\.json: expected JSON\. Received: Expecting value"):
        load_schema(str(path))


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_key_given_twice_is_refused(tmp_path, suffix):
    path = tmp_path / f"hand.{suffix}"
    path.write_text(json.dumps(HAND)[:-1] + ', "edges": []}')
    with pytest.raises(InputError, match=r"^skeleton .*: expected (YAML|JSON)\. Received: the key edges twice"):
        load_schema(str(path))
