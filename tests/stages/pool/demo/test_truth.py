import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, UnidentifiedImageError


@pytest.fixture(scope="module")
def truth(demo):
    return {row["uid"]: row for row in pq.read_table(demo.truth).to_pylist()}


@pytest.fixture(scope="module")
def stored(demo):
    """uid -> (facts, picture or None, caption or None), read from the tars; the first of a duplicated uid."""
    groups = {}
    for path in sorted(demo.shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            try:
                for member in tar:
                    key, ending = member.name.split(".")
                    groups.setdefault(key, {})[ending] = tar.extractfile(member).read()
            except tarfile.ReadError:
                pass
    found = {}
    for group in groups.values():
        if "json" in group:
            facts = json.loads(group["json"])
            found.setdefault(facts["uid"], (facts, group["jpg"], group.get("txt")))
    return found


def _opens(picture):
    try:
        Image.open(io.BytesIO(picture)).load()
    except (OSError, UnidentifiedImageError):
        return False
    return True


def test_truth_holds_every_stored_uid_and_those_lost_in_the_broken_tar(truth, stored):
    lost = {uid for uid, row in truth.items() if "truncated_tar" in row["ills"]}
    assert len(lost) == 3
    assert truth.keys() - stored.keys() == lost


def test_truth_names_the_samples_whose_pictures_break(truth, stored):
    broken = {uid for uid, (_, picture, _) in stored.items() if not _opens(picture)}
    assert broken == {uid for uid, row in truth.items() if "truncated_image" in row["ills"]}
    assert broken


def test_truth_names_the_samples_without_caption(truth, stored):
    silent = {uid for uid, (_, _, caption) in stored.items() if caption is None}
    assert silent == {uid for uid, row in truth.items() if "no_caption" in row["ills"]}
    assert silent


def test_true_caption_is_the_stored_one_unless_mismatched_or_rewritten(truth, stored):
    for uid, (_, _, caption) in stored.items():
        row = truth[uid]
        if row["clean"]:
            assert caption.decode() == row["true_caption"]
        if row["mismatched"]:
            assert caption.decode() != row["true_caption"]


def test_keys_are_those_of_the_tars(truth, stored):
    assert all(truth[uid]["key"] == facts["key"] for uid, (facts, _, _) in stored.items())


def test_clean_means_without_any_ill(truth):
    assert all(row["clean"] == (not row["ills"]) for row in truth.values())
    assert 0.5 < np.mean([row["clean"] for row in truth.values()]) < 0.7


def test_trusted_file_lists_the_trusted_samples_sorted_in_datacomps_format(demo, truth):
    trusted = np.load(demo.trusted)
    assert trusted.dtype == np.dtype("u8,u8")
    assert len(trusted) == 32
    assert np.array_equal(trusted, np.sort(trusted))
    uids = {f"{int(hi):016x}{int(lo):016x}" for hi, lo in trusted.tolist()}
    assert uids == {uid for uid, row in truth.items() if row["trusted"]}
    assert all(truth[uid]["clean"] for uid in uids)
