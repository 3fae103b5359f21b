"""A file is written in full or stays as it was."""

import pytest

from jepa_pipeline.files import atomic_path, atomic_write


def test_a_file_is_replaced_in_one_piece(tmp_path):
    atomic_write(tmp_path / "report.json", "old")
    with atomic_path(tmp_path / "report.json") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "report.json").read_text() == "old"
    assert (tmp_path / "report.json").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    atomic_write(tmp_path / "report.json", "old")
    with pytest.raises(type(error)), atomic_path(tmp_path / "report.json") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "report.json").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["report.json"]
