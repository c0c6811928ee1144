"""`dekr reproduce`: the tables about sizes in full, the others on synthetic people with tiny networks."""

import json
import shutil
from itertools import pairwise

import cv2
import keras
import numpy as np
import pytest
from networks import tiny_hrnet

from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.data.synthetic import draw_scene
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.rescoring import RescoringNet, count_features
from dekr_tf.models import build_dekr, save_model
from dekr_tf.models.complexity import count_complexity
from dekr_tf.sidecar import Sidecar, write_sidecar

TINY = tiny_hrnet(2)
#: Checkpoints of the reference have adaptive convolutions; the others take less time.
HEADS = {"coco": {"blocks": 1}, "crowdpose": {"block": "plain", "blocks": 1}}
NOT_RUN = "not run"

pytestmark = pytest.mark.slow


def tiny_config(keypoints):
    return Config(keypoints=keypoints, input_size=64, model={**TINY, "offset_head": HEADS[keypoints]})


def tiny_net(schema):
    sizes = count_features(schema), 4, 4, 1
    random = np.random.default_rng(3)
    layers = tuple((0.1 * np.abs(random.normal(size=pair)), np.zeros(pair[1])) for pair in pairwise(sizes))
    return RescoringNet(schema, layers)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data sets as they are distributed, with tiny networks whose poses are the labels of their people."""
    folder = tmp_path_factory.mktemp("reproduce")
    weights = folder / "weights"
    places = {
        "coco": ("annotations/person_keypoints_val2017.json", "val2017"),
        "crowdpose": ("json/crowdpose_test.json", "images"),
    }
    scenes = [draw_scene((64, 80), np.random.default_rng(seed)) for seed in (1, 2)]
    for name, (annotations, images) in places.items():
        config = tiny_config(name)
        keras.utils.set_random_seed(0)
        model = build_dekr(config.model, config.schema)
        for layer in ("heatmap", "offset_g1_final"):
            kernel = model.get_layer(layer).kernel
            kernel.assign(np.random.default_rng(1).normal(size=kernel.shape))
        save_model(model, weights / f"pose_dekr_hrnetw32_{name}.keras", Sidecar.from_config(config))
        net = "final_rescore_coco_kpt" if name == "coco" else "final_rescore_crowd_pose_kpt"
        tiny_net(config.schema).save(weights / f"{net}.npz")

        (folder / name / images).mkdir(parents=True)
        detector = PoseDetector(model, Sidecar.from_config(config), flip=True)
        entries, people = [], []
        for index, scene in enumerate(scenes):
            file = folder / name / images / f"{index}.png"
            cv2.imwrite(str(file), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
            size = {"height": 64, "width": 80}
            entries.append({"id": index, "file_name": file.name, "crowdIndex": (0.1, 0.9)[index], **size})
            for keypoints, _ in detector(scene.image):
                labeled = np.column_stack([keypoints[:, :2], np.full(len(keypoints), 2)])
                person = {"id": len(people) + 1, "image_id": index, "keypoints": labeled.ravel().tolist()}
                # Of medium size.
                people.append({**person, "area": 2000, "bbox": [0, 0, 60, 60]})
        path = folder / name / annotations
        path.parent.mkdir()
        path.write_text(json.dumps({"images": entries, "annotations": people}))
    return folder


@pytest.fixture
def folder(data, eagerly):
    return data


def run(capsys, *words):
    code = main(["reproduce", *map(str, words)])
    return code, *capsys.readouterr()


def reproduce(capsys, folder, table, output, *options):
    """The rows by name, and what was printed."""
    places = ("--weights", folder / "weights", "--coco", folder / "coco", "--crowdpose", folder / "crowdpose")
    code, printed, errors = run(capsys, table, *places, "--json", output, *options)
    assert (code, errors) == (0, "")
    return {row["name"]: row for row in json.loads(output.read_text())["rows"]}, printed


def evaluated(folder, tmp_path, name, *options):
    """What `dekr evaluate` says of a tiny network."""
    paths = {
        "coco": ("annotations/person_keypoints_val2017.json", "val2017", "final_rescore_coco_kpt"),
        "crowdpose": ("json/crowdpose_test.json", "images", "final_rescore_crowd_pose_kpt"),
    }
    annotations, images, net = paths[name]
    model = folder / "weights" / f"pose_dekr_hrnetw32_{name}.keras"
    data = ("--annotations", folder / name / annotations, "--images", folder / name / images)
    words = ("--model", model, *data, "--rescore", folder / "weights" / f"{net}.npz", "--output", tmp_path / "e.json")
    assert main(["evaluate", *map(str, (*words, "--flip", *options))]) == 0
    return {key: 100 * value for key, value in json.loads((tmp_path / "e.json").read_text()).items() if value >= 0}


def ours(row):
    return {column: cell["ours"] for column, cell in row["cells"].items() if cell["ours"] is not None}


@pytest.fixture(scope="module")
def counts():
    """Sizes by config, since DEKR-W32 is in two tables."""
    return {}


@pytest.fixture
def counted_once(counts, monkeypatch):
    def count(config):
        key = config.model_dump_json()
        if key not in counts:
            counts[key] = count_complexity(config)
        return counts[key]

    monkeypatch.setattr("dekr_tf.models.complexity.count_complexity", count)


def test_table1_has_the_sizes_of_the_ablation(counted_once, capsys):
    code, printed, errors = run(capsys, "table1")
    assert (code, errors) == (0, "")
    rows = [line.split()[-4:] for line in printed.splitlines()[4:]]
    assert rows[0::3] == [
        ["1.31", "21.48", "30.65", "63.28"],
        ["1.34", "21.94", "30.68", "63.73"],
        ["0.19", "3.14", "29.53", "44.93"],
        ["0.22", "3.59", "29.56", "45.39"],
    ]
    assert rows[1::3] == rows[0::3]
    assert rows[2::3] == [["+0.00"] * 4] * 4


def test_table3_needs_nothing_but_the_code(counted_once, tmp_path, capsys):
    code, printed, errors = run(capsys, "table3", "--json", tmp_path / "sizes.json")
    assert (code, errors) == (0, "")
    assert printed.splitlines() == [
        "table3: Parameters and multiply-adds, which the paper calls FLOPs, of both networks",
        "paper's figures: printed in the paper; the authors' page, https://github.com/HRNet/DEKR, has the same",
        "",
        "                           params (M)   GFLOPs",
        "DEKR-W32, 512  ours             29.56    45.39",
        "               paper             29.6     45.4",
        "               difference       -0.04    -0.01",
        "DEKR-W48, 640  ours             65.68   141.53",
        "               paper             65.7    141.5",
        "               difference       -0.02    +0.03",
    ]
    report = json.loads((tmp_path / "sizes.json").read_text())
    assert report["table"] == "table3"
    cells = [row["cells"]["params (M)"] for row in report["rows"]]
    assert [cell["ours"] for cell in cells] == [29.561182, 65.684590]
    assert [cell["difference"] for cell in cells] == pytest.approx([-0.038818, -0.01541])


def test_table2_runs_what_is_there_and_lists_the_rest(folder, tmp_path, capsys):
    rows, printed = reproduce(capsys, folder, "table2", tmp_path / "t.json")
    assert list(rows) == ["DEKR-W32", "DEKR-W48", "DEKR-W32, multi-scale", "DEKR-W48, multi-scale"]
    for name, options in {"DEKR-W32": (), "DEKR-W32, multi-scale": ("--scales", "0.5", "1", "2")}.items():
        expected = evaluated(folder, tmp_path, "coco", *options)
        assert ours(rows[name]) == pytest.approx(expected)
        # Nobody is large.
        assert rows[name]["cells"]["APL"] == {"ours": None, "paper": pytest.approx(77.75, abs=0.1), "difference": None}
        assert rows[name]["missing"] == []
        cell = rows[name]["cells"]["AP"]
        assert cell["difference"] == pytest.approx(cell["ours"] - cell["paper"])
    # The labels are what the network finds at one scale.
    assert rows["DEKR-W32"]["cells"]["AP"]["ours"] == pytest.approx(100)
    assert 0 < rows["DEKR-W32, multi-scale"]["cells"]["AP"]["ours"] < 100
    assert ours(rows["DEKR-W48"]) == {}
    wanted = folder / "weights" / "pose_dekr_hrnetw48_coco"
    others = f"{wanted}.pth or {folder / 'weights' / 'pose_coco' / wanted.name}.pth"
    missing = f"{wanted}.keras or {others} (https://github.com/HRNet/DEKR, model zoo)"
    assert rows["DEKR-W48"]["missing"] == [missing]
    lines = printed.splitlines()
    assert lines[2:4] == ["missing files:", f"  {missing}"]
    assert (
        lines[4] == f"note: {folder / 'weights' / 'pose_dekr_hrnetw32_coco.keras'} is another network than the paper's"
    )
    assert lines[5] == "COCO val2017: 2 images"
    own, paper, difference = lines[8:11]
    assert own.split()[:2] == ["DEKR-W32", "ours"] and paper.split()[:3] == ["paper", "68.0", "86.7"]
    ap = rows["DEKR-W32"]["cells"]["AP"]
    assert own.split()[2] == f"{ap['ours']:.2f}" and difference.split()[1] == f"{ap['difference']:+.2f}"
    assert lines[11].split("ours")[1].strip() == NOT_RUN


def test_table5_wants_the_networks_of_the_ablation(folder, tmp_path, capsys):
    rows, printed = reproduce(capsys, folder, "table5", tmp_path / "t.json", "--limit", "1")
    assert "COCO val2017: 1 images, the first of 2: no result to compare\n" in printed
    assert json.loads((tmp_path / "t.json").read_text())["limit"] == 1
    assert [name for name, row in rows.items() if ours(row)] == ["both: DEKR"]
    # The labels are what the network finds: no keypoint is wrong.
    assert ours(rows["both: DEKR"]) == pytest.approx({"AP": 100, "jitter": 0, "miss": 0, "inversion": 0, "swap": 0})
    assert rows["both: DEKR"]["cells"]["jitter"]["difference"] == pytest.approx(-11.8)
    assert rows["separate regression"]["cells"]["AP"] == {"ours": None, "paper": 63.6, "difference": None}
    (missing,) = rows["adaptive activation"]["missing"]
    wanted = folder / "weights" / "coco_w32_aa.keras"
    assert missing == f"{wanted} (not published: last.keras of dekr train --config configs/coco_w32_aa.yaml)"


def test_table6_matches_on_both_data_sets(folder, tmp_path, capsys):
    rows, _ = reproduce(capsys, folder, "table6", tmp_path / "t.json")
    ran = {name: ours(row)["AP"] for name, row in rows.items() if ours(row)}
    assert list(ran) == [
        f"{data}, DEKR-W32{scales}" for data in ("COCO val2017", "CrowdPose test") for scales in ("", ", multi-scale")
    ]
    for row, expected in {
        "COCO val2017, DEKR-W32": evaluated(folder, tmp_path, "coco", "--match"),
        "CrowdPose test, DEKR-W32, multi-scale": evaluated(
            folder, tmp_path, "crowdpose", "--match", "--scales", "0.5", "1", "2"
        ),
    }.items():
        assert ran[row] == pytest.approx(expected["AP"])
    # The labels are keypoints that are not matched.
    assert 0 < ran["COCO val2017, DEKR-W32"] < 100
    assert [row["cells"]["AP"]["paper"] for row in rows.values()] == [68.0, 71.0, 71.0, 72.8, 65.5, 67.5, 67.0, 68.3]


def test_table7_is_crowdposes_metric(folder, tmp_path, capsys):
    rows, printed = reproduce(capsys, folder, "table7", tmp_path / "t.json")
    assert ours(rows["DEKR-W32"]) == pytest.approx(
        {key: value for key, value in evaluated(folder, tmp_path, "crowdpose").items() if not key.startswith("AR")}
    )
    assert "CrowdPose test: 2 images\n" in printed


def test_checkpoints_as_the_authors_publish_them(folder, tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    from converters.to_torch import to_state_dict
    from dekr_tf.evaluation import paper_tables
    from dekr_tf.models import load_model

    # The paper's networks would take minutes; the row is made one of the tiny network.
    table = paper_tables.TABLES["table2"]
    row = paper_tables.Row("tiny", tiny_config("coco"), table.rows[0].paper, table.rows[0].checkpoint)
    monkeypatch.setitem(paper_tables.TABLES, "table2", paper_tables.Table("tiny", table.source, table.columns, (row,)))
    weights = tmp_path / "weights"
    for name in ("pose_coco", "rescore"):
        (weights / name).mkdir(parents=True)
    model, sidecar = load_model(folder / "weights" / "pose_dekr_hrnetw32_coco.keras")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in to_state_dict(model, sidecar).items()}
    torch.save(tensors, weights / "pose_coco" / "pose_dekr_hrnetw32_coco.pth")
    random = np.random.default_rng(0)
    sizes = {"l1": (256, count_features(sidecar.schema)), "l2": (256, 256), "l3": (1, 256)}
    tensors = {f"{name}.weight": torch.from_numpy(random.random(shape, np.float32)) for name, shape in sizes.items()}
    tensors |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in sizes.items()}
    torch.save(tensors, weights / "rescore" / "final_rescore_coco_kpt.pth")
    words = ("table2", "--weights", weights, "--coco", folder / "coco")
    code, _, errors = run(capsys, *words, "--json", tmp_path / "t.json")
    assert (code, errors) == (0, "")
    (row,) = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert row["cells"]["AP"]["ours"] == pytest.approx(100)

    shutil.copy(weights / "rescore" / "final_rescore_coco_kpt.pth", weights / "pose_dekr_hrnetw32_coco.pth")
    code, _, errors = run(capsys, *words)
    assert code == 2 and errors.count("\n") == 1
    assert errors.endswith("expected the checkpoint of a DEKR. Received: rescoring\n")


def test_nothing_to_run(folder, tmp_path, capsys):
    code, printed, errors = run(capsys, "table7", "--json", tmp_path / "t.json")
    assert code == 2
    assert "  pose_dekr_hrnetw32_crowdpose.keras or " in printed
    assert "(in the folder of --crowdpose; https://github.com/Jeff-sjtu/CrowdPose#dataset)\n" in printed
    assert errors == (
        "dekr reproduce: error: table7: expected the files of at least one row, as listed. "
        "Received: --weights not given; --crowdpose not given\n"
    )
    assert list(tmp_path.iterdir()) == []
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name in ("a.pth", "b.pth", "c.txt", "d.txt"):
        (wrong / name).write_text("")
    code, _, errors = run(capsys, "table2", "--weights", wrong, "--coco", folder / "coco")
    assert code == 2 and errors.count("\n") == 1
    assert f"Received: --weights {wrong} with a.pth, b.pth, c.txt, ...; --coco " in errors


def test_wrong_files(folder, tmp_path, capsys):
    weights = tmp_path / "weights"
    shutil.copytree(folder / "weights", weights)
    words = ("table2", "--weights", weights, "--coco", folder / "coco")
    model = weights / "pose_dekr_hrnetw32_coco.keras"

    def refused(reason, *options):
        code, _, errors = run(capsys, *words, *options)
        assert code == 2 and errors.count("\n") == 1
        assert reason in errors

    refused("--limit: expected a positive number of images. Received: 0", "--limit", 0)
    refused("--coco: expected a folder. Received: gone", "--coco", "gone")
    other = weights / "pose_dekr_hrnetw32_crowdpose.keras"
    shutil.copy(other, model)
    write_sidecar(Sidecar.from_config(tiny_config("crowdpose")), model)
    refused("expected a model of the skeleton coco, for COCO val2017. Received: one of crowdpose, 14 keypoints")
    # Without its sidecar, the model is taken for that of the row.
    model.with_name(f"{model.name}.json").unlink()
    refused("skeleton coco needs output channels")
    model.write_bytes(b"PK")
    refused("not a whole .keras archive")
    shutil.copy(folder / "weights" / model.name, model)
    shutil.copy(weights / "final_rescore_crowd_pose_kpt.npz", weights / "final_rescore_coco_kpt.npz")
    refused("expected the 17 keypoints of the model's skeleton coco. Received: the 14 of crowdpose")
    shutil.copy(folder / "weights" / "final_rescore_coco_kpt.npz", weights)
    coco = tmp_path / "coco"
    shutil.copytree(folder / "coco", coco)
    (coco / "val2017" / "1.png").unlink()
    refused("expected all 2 annotated images in", "--coco", coco)
    (coco / "annotations" / "person_keypoints_val2017.json").write_text("[]")
    refused("expected a mapping", "--coco", coco)
