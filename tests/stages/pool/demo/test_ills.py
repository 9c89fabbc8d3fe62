"""The demo pool as another's tools find it: each ill at its rate and visible in what lies on disk."""

import io
import json
import re
import tarfile
from collections import Counter
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from stages.pool.demo.captions import WORDS
from stages.pool.demo.plan import plan_pool
from stages.pool.demo.rates import IllRates
from stages.pool.demo.sources import split_sources
from tests.artifacts import listed, run_stage
from tests.stages.pool.demo.conftest import make_small


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A pool whose scorers learnt from enough to be worth something."""
    return make_small(tmp_path_factory.mktemp("scored") / "pool", num_samples=640, scorer_samples=1024)


@pytest.fixture(scope="module")
def stored(scored):
    """Samples in the order of the shards, grouped as webdataset does: consecutive members of one key."""
    found = []
    for path in sorted(scored.shards.glob("*.tar")):
        members = list(_readable(path))
        for key, group in groupby(members, lambda member: member[0].split(".")[0]):
            sample = {name.split(".")[1]: data for name, data in group}
            if "json" in sample:
                found.append({"key": key, **sample, "facts": json.loads(sample["json"])})
    return found


def _readable(path):
    """Names and bytes of a tar's members until it ends or breaks off."""
    with tarfile.open(path) as tar:
        try:
            while (member := tar.next()) is not None:
                yield member.name, tar.extractfile(member).read()
        except tarfile.ReadError:
            return


@pytest.fixture(scope="module")
def truth(scored):
    return {row["uid"]: row for row in pq.read_table(scored.truth).to_pylist()}


@pytest.fixture(scope="module")
def metadata(scored):
    return {row["uid"]: row for path in scored.metadata.iterdir() for row in pq.read_table(path).to_pylist()}


def with_ill(stored, truth, ill):
    found = [
        s for s in stored if ill in truth[s["facts"]["uid"]]["ills"] and truth[s["facts"]["uid"]]["key"] == s["key"]
    ]
    assert found
    return found


def caption(sample):
    return sample["txt"].decode()


def test_each_ill_stands_in_the_truth_at_its_rate(truth):
    planted = Counter(ill for row in truth.values() for ill in row["ills"])
    rates = IllRates().counts(640)
    assert {name: planted[name] for name in rates if name != "missing"} == {
        name: count for name, count in rates.items() if name != "missing"
    }
    assert planted["truncated_tar"] == 3


def test_defaults_are_the_rates_that_were_promised():
    assert IllRates().mismatched == 0.25
    mismatched = [s for s in plan_pool(split_sources(0)["pool"], 2000, 1, IllRates()).samples if s.mismatched]
    assert len(mismatched) == 500


def _digits(text):
    words = re.findall(r"[a-z]+|\d", text.lower().replace("(2019)", ""))
    return sorted(WORDS.index(w) if w in WORDS else int(w) for w in words if w in WORDS or w.isdigit())


def test_mismatched_captions_name_other_digits_and_all_clean_ones_the_same(stored, truth):
    for sample in with_ill(stored, truth, "mismatched"):
        assert _digits(caption(sample)) != _digits(truth[sample["facts"]["uid"]]["true_caption"])
    clean = [sample for sample in stored if truth[sample["facts"]["uid"]]["clean"]]
    assert clean
    for sample in clean:
        row = truth[sample["facts"]["uid"]]
        if row["key"] == sample["key"]:
            assert caption(sample) == row["true_caption"]


def test_short_captions_are_one_or_two_words_and_long_ones_beyond_the_token_limit(stored, truth):
    assert {len(caption(s).split()) for s in with_ill(stored, truth, "short_caption")} <= {1, 2}
    encode = SimpleTokenizer().encode
    assert min(len(encode(caption(s))) for s in with_ill(stored, truth, "long_caption")) > 75
    usual = [s for s in stored if truth[s["facts"]["uid"]]["clean"]]
    assert max(len(encode(caption(s))) for s in usual) <= 75


def _pixels(data, side=24):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((side, side)), float)


def test_near_duplicates_look_like_their_original_and_come_later(stored, truth):
    by_uid = {}
    for place, sample in enumerate(stored):
        by_uid.setdefault(sample["facts"]["uid"], (place, sample))
    others = [sample for _, sample in by_uid.values() if truth[sample["facts"]["uid"]]["clean"]]
    for sample in with_ill(stored, truth, "near_duplicate"):
        place, _ = by_uid[sample["facts"]["uid"]]
        where = by_uid.get(truth[sample["facts"]["uid"]]["duplicate_of"])
        if where is None:  # lost at the end of the truncated tar
            continue
        assert where[0] < place
        assert where[1]["jpg"] != sample["jpg"]
        picture = _pixels(sample["jpg"])
        distances = [np.abs(picture - _pixels(other["jpg"])).mean() for other in others[:60]]
        assert np.abs(picture - _pixels(where[1]["jpg"])).mean() < np.quantile(distances, 0.1)


def test_tiny_and_extreme_pictures_are_so_in_json_and_metadata_alike(stored, truth, metadata):
    for sample in stored:
        facts, row = sample["facts"], metadata[sample["facts"]["uid"]]
        if truth[facts["uid"]]["key"] != sample["key"]:
            continue  # the second sample of a duplicated uid
        sizes = (facts["original_width"], facts["original_height"])
        assert sizes == (row["original_width"], row["original_height"])
        ills = truth[facts["uid"]]["ills"]
        assert (min(sizes) < 200) == ("tiny" in ills)
        assert (max(sizes) > 3 * min(sizes)) == ("extreme_aspect" in ills)


def test_extreme_pictures_are_stored_extreme(stored, truth):
    for sample in with_ill(stored, truth, "extreme_aspect"):
        size = Image.open(io.BytesIO(sample["jpg"])).size
        assert max(size) > 2.5 * min(size)


def test_duplicated_uid_lies_in_two_places_with_other_pictures(stored):
    by_uid = Counter(sample["facts"]["uid"] for sample in stored)
    twice = [uid for uid, count in by_uid.items() if count > 1]
    assert len(twice) <= 1  # one of the two may be lost in the truncated tar
    for uid in twice:
        first, second = (sample for sample in stored if sample["facts"]["uid"] == uid)
        assert (first["key"], first["jpg"]) != (second["key"], second["jpg"])


def test_trusted_samples_are_whole_clean_and_in_the_pool(scored, stored, truth):
    there = {sample["facts"]["uid"]: sample for sample in stored}
    trusted = [f"{int(hi):016x}{int(lo):016x}" for hi, lo in np.load(scored.trusted).tolist()]
    assert len(trusted) == len(set(trusted)) == 80
    for uid in trusted:
        assert truth[uid]["ills"] == []
        assert caption(there[uid]) == truth[uid]["true_caption"]
        Image.open(io.BytesIO(there[uid]["jpg"])).load()


def test_truth_lies_apart_and_nothing_of_it_in_the_pool(scored):
    """What is wrong with a sample must be learnt from the sample."""
    words = ("mismatched", "trusted", "true_caption", "near_duplicate", "duplicate_of", "clean")
    for path in (*scored.shards.iterdir(), *scored.metadata.iterdir()):
        data = path.read_bytes()
        text = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else data.decode("latin-1")
        assert not [word for word in words if word in text], path
    assert scored.truth.parent == scored.directory


@pytest.mark.parametrize("scorer", ["b32", "l14"])
def test_clip_scores_are_informative_and_imperfect(truth, metadata, scorer):
    """A perfect score would leave nothing to compare methods by; a useless one would be no baseline."""
    rows = [(truth[uid], row[f"clip_{scorer}_similarity_score"]) for uid, row in metadata.items() if uid in truth]
    chosen = [(t["clean"], score) for t, score in rows if t["clean"] or t["mismatched"]]
    clean, score = zip(*chosen, strict=True)
    assert 0.55 < roc_auc_score(clean, score) < 0.99


def test_metadata_scores_of_equal_uids_differ_between_the_scorers(metadata):
    pairs = [(row["clip_b32_similarity_score"], row["clip_l14_similarity_score"]) for row in metadata.values()]
    small, large = np.array(pairs).T
    assert 0.1 < np.corrcoef(small, large)[0, 1] < 0.999


def test_source_digits_are_disjoint_and_each_a_real_one():
    sources = split_sources(3)
    images = [source.images() for source in sources.values()]
    assert sum(map(len, images)) == len(set().union(*images)) == len(load_digits().images)
    plan = plan_pool(sources["pool"], 300, 3, IllRates())
    drawn = {glyph.image for sample in (*plan.samples, *plan.missing) for glyph in sample.scene.glyphs}
    assert drawn <= sources["pool"].images()
    assert not drawn & (sources["scorer"].images() | sources["evaluation"].images())


def test_keys_uids_and_names_are_of_datacomps_form(scored, stored):
    for sample in stored:
        assert re.fullmatch(r"\d{12}", sample["key"])
        assert re.fullmatch(r"[0-9a-f]{32}", sample["facts"]["uid"])
    assert [path.name for path in sorted(scored.shards.glob("*.tar"))] == [f"{n:08d}.tar" for n in range(8)]
    keys = [sample["key"] for sample in stored]
    assert len(keys) == len(set(keys))
    assert max(Image.open(io.BytesIO(s["jpg"])).size[0] for s in stored if len(s["jpg"]) > 1200) <= 512


def test_pool_stage_finds_the_planted_faults_and_no_others(scored, truth, tmp_path):
    from stages.pool.config import PoolConfig
    from stages.pool.stage import PoolStage

    stage = PoolStage(PoolConfig(path=str(scored.shards), metadata=str(scored.metadata), max_quarantined=0.05))
    external = {role: listed(found.uri, found.suffix) for role, found in stage.external().items()}
    artifact = run_stage(stage, tmp_path / "out", "pool", external=external)
    rates = IllRates().counts(640)
    reasons = artifact.summary["quarantine_reasons"]
    lost = [row for row in truth.values() if "truncated_tar" in row["ills"]]
    assert reasons["truncated_tar"] == 1
    for reason, ill in (("broken_image", "truncated_image"), ("no_caption", "no_caption")):
        gone = sum(ill in row["ills"] for row in lost)
        assert reasons.get(reason, 0) == rates[ill] - gone
    assert set(reasons) <= {"truncated_tar", "broken_image", "no_caption", "duplicate_uid"}
    quarantined = sum(reasons.values())
    assert artifact.summary["samples"] == 640 - len(lost) + 1
    assert artifact.summary["usable"] == artifact.summary["samples"] - quarantined
    assert artifact.summary["shard_faults"] == {"truncated_tar": 1}
    assert artifact.summary["without_metadata"] == 0
    index = pa.concat_tables(artifact.tables("index/"))
    uids = {
        f"{hi:016x}{lo:016x}" for hi, lo in zip(index["uid_hi"].to_pylist(), index["uid_lo"].to_pylist(), strict=True)
    }
    trusted = {uid for uid, row in truth.items() if row["trusted"]}
    assert trusted <= uids
    assert {"clip_b32_similarity_score", "clip_l14_similarity_score"} <= set(index.column_names)
