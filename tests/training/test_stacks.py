"""The stacks that say why a run ended outlast the next start of that run."""

from jepa_pipeline.training.stacks import StacksFile, remove_empty_files


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


def test_a_start_deletes_what_killed_ones_left_without_a_line(tmp_path):
    """Of any rank: the next start may have fewer, and a finished run opens no file of its own."""
    folder = tmp_path / "stacks"
    for rank in range(2):
        StacksFile(folder / f"rank-{rank:04d}.txt").open().close()
    remove_empty_files(folder)
    assert not folder.exists()
    StacksFile(folder / "rank-0000.txt").open().close()
    StacksFile(folder / "rank-0001.txt").write("why this one ended\n")
    remove_empty_files(folder)
    assert [path.name for path in folder.iterdir()] == ["rank-0001.txt"]
    remove_empty_files(tmp_path / "nowhere")
