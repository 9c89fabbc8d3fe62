import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.evaluate_data import find_data_sets, read_examples
from stages.formats.tar import tar_bytes
from tests.artifacts import listed
from tests.stages.evaluation_sets import COLOURS, TEMPLATES, picture, write_set, write_sets


def _find(root):
    return find_data_sets(listed(root), Storage())


@pytest.fixture
def folder(tmp_path):
    write_sets(tmp_path)
    return tmp_path


def test_sets_are_found_with_kind_classes_and_templates(folder):
    colours, pairs = _find(folder)
    assert (colours.name, colours.kind, colours.classes) == ("colours", "classification", tuple(COLOURS))
    assert colours.templates == TEMPLATES
    assert (pairs.name, pairs.kind) == ("pairs", "retrieval")


def test_a_single_set_is_found_in_its_own_folder(folder):
    assert [data_set.name for data_set in _find(folder / "wds_colours_test")] == ["colours"]


def test_examples_come_in_the_order_of_the_shards_with_their_labels(folder):
    colours, pairs = _find(folder)
    labels = [example.label for example in read_examples(colours, Storage())]
    dealt = [place % 5 for place in range(15)]
    assert labels == dealt[::2] + dealt[1::2]
    captions = [example.captions for example in read_examples(pairs, Storage())]
    assert captions[0] == ("a red thing", "photo of red")
    assert captions[1:] == [(f"a {colour} thing",) for colour in list(COLOURS)[1:]]


def test_images_are_the_stored_bytes(folder):
    pairs = _find(folder)[1]
    assert [example.image for example in read_examples(pairs, Storage())] == [picture(c, 99) for c in COLOURS]


def test_no_set_is_a_user_error_that_says_how_to_get_one(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="gradsieve pool make"):
        _find(tmp_path)


def test_missing_shard_is_a_user_error(folder):
    (folder / "wds_colours_test" / "test" / "1.tar").unlink()
    with pytest.raises(UserError, match=r"1 missing, the first .*1\.tar"):
        _find(folder)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("wds_colours_test/classnames.txt", "\n", "classnames.txt"),
        ("wds_colours_test/zeroshot_classification_templates.txt", "a {x}\n", "{c} for the class name"),
        ("wds_colours_test/zeroshot_classification_templates.txt", "a thing\n", "{c} for the class name"),
        ("wds_colours_test/test/nshards.txt", "many", "number of shards"),
        ("wds_pairs_test/dataset_type.txt", "multilabel", "classification or retrieval"),
    ],
)
def test_wrong_side_file_is_a_user_error(folder, path, text, message):
    (folder / path).write_text(text)
    with pytest.raises(UserError, match=message):
        _find(folder)


@pytest.mark.parametrize(
    ("ending", "label", "message"),
    [("cls", "7", "below 2"), ("cls", "red", "below 2"), ("txt", "0", "and cls")],
)
def test_wrong_label_is_a_user_error(tmp_path, ending, label, message):
    sides = {"classnames": "red\nblue", "zeroshot_classification_templates": "{c}"}
    write_set(tmp_path / "wds_x_test", [(picture("red"), label)], ending, **sides)
    with pytest.raises(UserError, match=message):
        list(read_examples(_find(tmp_path)[0], Storage()))


def test_truncated_shard_is_a_user_error(folder):
    shard = folder / "wds_pairs_test" / "test" / "0.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(UserError, match="whole sample"):
        list(read_examples(_find(folder)[1], Storage()))


def test_picture_without_caption_is_a_user_error(tmp_path):
    write_set(tmp_path / "wds_x_test", [(picture("red"), "")], "txt", dataset_type="retrieval")
    with pytest.raises(UserError, match="a caption a line"):
        list(read_examples(_find(tmp_path)[0], Storage()))


def test_two_sets_of_one_name_are_a_user_error(folder):
    write_sets(folder / "more")
    with pytest.raises(UserError, match="same name"):
        _find(folder)


def test_the_demos_sets_are_complete_and_can_be_read(tmp_path):
    from stages.pool.demo.evaluation import write_evaluation
    from stages.pool.demo.sources import split_sources

    write_evaluation(tmp_path, split_sources(0)["evaluation"], 12, 0)
    sets = {data_set.name: data_set for data_set in _find(tmp_path)}
    assert {name: data_set.kind for name, data_set in sets.items()} == {
        "colours": "classification",
        "digits": "classification",
        "pairs": "retrieval",
    }
    assert sets["digits"].classes[7] == "seven"
    for data_set in sets.values():
        examples = list(read_examples(data_set, Storage()))
        assert len(examples) == 12
        assert all(len(example.captions) == (data_set.kind == "retrieval") for example in examples)


def test_names_without_the_usual_affixes_are_kept(tmp_path):
    write_set(tmp_path / "mine", [(picture("red"), "hello")], "txt", dataset_type="retrieval")
    assert [data_set.name for data_set in _find(tmp_path)] == ["mine"]


def test_sets_are_ordered_by_name_whatever_the_listing(folder):
    write_set(folder / "wds_a_test", [(picture("red"), "hello")], "txt", dataset_type="RETRIEVAL\n")
    assert [data_set.name for data_set in _find(folder)] == ["a", "colours", "pairs"]


@pytest.mark.parametrize("ending", ["webp", "jpg", "jpeg", "png"])
def test_each_kind_of_picture_is_found(tmp_path, ending):
    folder = tmp_path / "wds_x_test"
    write_set(folder, [], "txt", dataset_type="retrieval")
    (folder / "test" / "0.tar").write_bytes(tar_bytes([(f"a.{ending}", b"bytes"), ("a.txt", b"one\ntwo\n")]))
    (example,) = read_examples(_find(tmp_path)[0], Storage())
    assert (example.image, example.captions) == (b"bytes", ("one", "two"))


@pytest.mark.parametrize(
    "path",
    [
        "wds_colours_test/classnames.txt",
        "wds_colours_test/zeroshot_classification_templates.txt",
        "wds_colours_test/test/nshards.txt",
        "wds_pairs_test/dataset_type.txt",
    ],
)
def test_side_file_in_another_encoding_is_a_user_error_that_names_it(folder, path):
    (folder / path).write_bytes("größe".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8") as raised:
        _find(folder)
    assert path in str(raised.value)


@pytest.mark.parametrize("path", ["classnames.txt", "zeroshot_classification_templates.txt"])
def test_absent_side_file_is_a_user_error(folder, path):
    (folder / "wds_colours_test" / path).unlink()
    with pytest.raises(UserError, match=path):
        _find(folder)


@pytest.mark.parametrize("count", ["0", "-1", "1.0", "", "two", "²"])
def test_count_of_shards_that_is_none_is_a_user_error(folder, count):
    (folder / "wds_pairs_test/test/nshards.txt").write_text(count)
    with pytest.raises(UserError, match="number of shards"):
        _find(folder)


def test_blank_lines_and_spaces_in_side_files_say_nothing(folder):
    root = folder / "wds_colours_test"
    (root / "classnames.txt").write_text("\n  red \r\n\nblue\n\n")
    (root / "zeroshot_classification_templates.txt").write_text("\na {c}  \r\n")
    colours = _find(folder)[0]
    assert (colours.classes, colours.templates) == (("red", "blue"), ("a {c}",))


@pytest.mark.parametrize(("label", "number"), [("1", 1), ("0\n", 0), (" 1 ", 1), ("01", 1)])
def test_label_may_have_space_around_it(tmp_path, label, number):
    sides = {"classnames": "red\nblue", "zeroshot_classification_templates": "{c}"}
    write_set(tmp_path / "wds_x_test", [(picture("red"), label)], "cls", **sides)
    assert [example.label for example in read_examples(_find(tmp_path)[0], Storage())] == [number]


@pytest.mark.parametrize("label", ["2", "-1", "1.0", "", "0 1", "٣x"])
def test_label_outside_the_classes_names_the_sample(tmp_path, label):
    sides = {"classnames": "red\nblue", "zeroshot_classification_templates": "{c}"}
    write_set(tmp_path / "wds_x_test", [(picture("red"), "0"), (picture("red"), label)], "cls", **sides)
    with pytest.raises(UserError, match=r"0\.tar, s0000001"):
        list(read_examples(_find(tmp_path)[0], Storage()))


def test_shards_beyond_the_count_are_not_read(folder):
    root = folder / "wds_colours_test/test"
    (root / "7.tar").write_bytes(b"not counted")
    assert len(list(read_examples(_find(folder)[0], Storage()))) == 15


def test_shard_without_its_end_marker_is_read_whole(folder):
    shard = folder / "wds_pairs_test/test/0.tar"
    members = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(members + bytes(-len(members) % 512))
    assert len(list(read_examples(_find(folder)[1], Storage()))) == 5


def test_damaged_header_inside_a_shard_is_a_user_error(folder):
    shard = folder / "wds_pairs_test/test/0.tar"
    data = bytearray(shard.read_bytes())
    data[512 * 2 + 5] ^= 0x40  # of the second member, behind one block of data
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match="cannot be used") as raised:
        list(read_examples(_find(folder)[1], Storage()))
    assert "0.tar, s0000000" in str(raised.value)
