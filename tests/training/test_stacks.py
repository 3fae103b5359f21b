"""The stacks that say why a run ended outlast the next start of that run."""

from jepa_pipeline.training.stacks import StacksFile


def test_the_next_start_keeps_the_stacks_of_the_one_before(tmp_path):
    file = StacksFile(tmp_path / "stacks/rank-0000.txt")
    assert file.write("why the first start ended\n")
    written = file.path.read_text()
    again = StacksFile(file.path)
    opened = again.open()
    assert opened is not None
    opened.close()
    again.remove_empty()
    assert file.path.read_text() == written and "why the first start ended" in written
    assert again.write("why the second ended\n") and file.path.read_text().startswith(written)


def test_a_file_in_which_nothing_was_written_is_deleted(tmp_path):
    file = StacksFile(tmp_path / "stacks/rank-0000.txt")
    opened = file.open()
    assert opened is not None
    opened.close()
    file.remove_empty()
    assert not file.path.parent.exists()
