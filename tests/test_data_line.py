"""Tables say of which data they are, and are marked as soon as others lie prepared."""

import hashlib
import json

import pytest
from little import copy_of

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.report import data_line

FACTS = {
    "source": "food11",
    "classes": 11,
    "resolution": 64,
    "channels": 3,
    "train_images": 9866,
    "val_images": 3430,
    "manifest_sha256": "0123456789abcdef" * 4,
}
LINE = (
    "Data: food11, 11 classes, 64x64 pixels in 3 channels; images: 9,866 training, 3,430 validation "
    "(sha256 of the manifest: 0123456789ab)."
)


def write(root, **changes):
    files.write_json(root / data_line.FACTS, FACTS | changes)


def tables(root, text=None):
    if text is not None:
        files.write_text(root / data_line.TABLES, text)
    return (root / data_line.TABLES).read_text(encoding="utf-8")


def test_the_line_says_what_the_data_are(tmp_path):
    assert data_line.data_line(tmp_path) == ""
    write(tmp_path)
    assert data_line.data_line(tmp_path) == LINE
    write(tmp_path, channels=1, test_images=3000)
    assert "64x64 pixels in 1 channel; images: 9,866 training, 3,430 validation, 3,000 test (" in (
        data_line.data_line(tmp_path)
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest_sha256": 3}', json.dumps(FACTS | {"classes": "eleven"})])
def test_damaged_facts_name_file_and_remedy(tmp_path, text):
    files.write_text(tmp_path / data_line.FACTS, text)
    with pytest.raises(ArtifactError, match=r"^metrics/data\.json .*run 'dvc repro prepare'"):
        data_line.data_line(tmp_path)


def test_tables_that_do_not_say_of_which_data_they_are_stay_as_they_are(tmp_path):
    write(tmp_path)
    assert not data_line.mark_tables(tmp_path)
    assert not (tmp_path / data_line.TABLES).exists()
    tables(tmp_path, "# All models\n")
    assert not data_line.mark_tables(tmp_path)
    assert tables(tmp_path) == "# All models\n"


def test_a_mark_names_the_data_prepared_last_and_stands_there_once(tmp_path):
    write(tmp_path)
    old = tables(tmp_path, f"# All models\n\n{LINE}\n\n| Model |\n")
    for count in (10, 20):
        write(tmp_path, train_images=count)
        assert data_line.mark_tables(tmp_path)
        text = tables(tmp_path)
        assert text.startswith(data_line.MARK) and text.count(data_line.MARK) == 1
        assert f"Prepared now: food11, 11 classes, 64x64 pixels in 3 channels; images: {count} training" in text
        assert text.endswith(f"\n\n{old}")
    write(tmp_path)
    assert not data_line.mark_tables(tmp_path)
    assert tables(tmp_path) == old


def test_stages_name_the_data_and_mark_tables_of_other_data_before_anything_trains(server, little_run, tmp_path):
    project = copy_of(little_run, tmp_path / "project")
    old = tables(project)
    sha256 = hashlib.sha256((project / "data/prepared/manifest.json").read_bytes()).hexdigest()
    assert json.loads((project / "metrics/data.json").read_text())["manifest_sha256"] == sha256
    line = next(line for line in old.splitlines() if line.startswith(data_line.START))
    assert "fashion-mnist, 10 classes, 28x28 pixels in 1 channel" in line and sha256[:12] in line
    assert "Commit: `git log -1 --format=%h -- metrics/summary.md`." in old

    params = (project / "params.yaml").read_text(encoding="utf-8")
    assert "resolution: 28" in params
    files.write_text(project / "params.yaml", params.replace("resolution: 28", "resolution: 20"))
    said = server.finish(project, "prepare")
    assert data_line.MARK.strip("*") in said
    assert tables(project).startswith(f"{data_line.MARK}\n`dvc repro` makes new ones. Prepared now: fashion-mnist, ")
    assert "20x20 pixels" in tables(project) and tables(project).endswith(old)

    files.write_text(project / "params.yaml", params)
    assert data_line.MARK.strip("*") not in server.finish(project, "prepare")
    assert tables(project) == old
