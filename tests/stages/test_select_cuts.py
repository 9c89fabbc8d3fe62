"""Which cuts wait for which, how many rows they ask for, and in how many passes they are found."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifact import ArtifactWriter, FileEntry
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages import select_cuts
from stages.kernels.bracket import EVERYTHING, Bracket
from stages.kernels.radix import Keys
from stages.select_config import ClipScoreClause, SelectConfig
from stages.select_cuts import Selection, find_cuts, wanted_rows
from stages.select_frame import Frame, Sources, column_values
from stages.select_rules import cut_clauses
from tests.artifacts import commit
from tests.stages.uid_tables import make_pool, put_buckets, random_uids

N = 1000
RNG = np.random.default_rng(0)
QUALITY = RNG.normal(size=N)
CLIP = RNG.choice(np.linspace(0, 0.4, 50), N)


def top(by, fraction, of="pool"):
    return {"top": {"by": by, "fraction": fraction, "of": of}}


def config_of(rule, **block):
    return SelectConfig.model_validate({"rule": rule, **block})


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    root = tmp_path_factory.mktemp("cuts")
    hi, lo = random_uids(N)
    metadata = {
        "quality": pa.array(QUALITY),
        "grade": pa.array(np.ones(N)),
        "clip_l14_similarity_score": pa.array(CLIP),
    }
    missing_hi, missing_lo = random_uids(100, seed=8)
    missing = pa.table({"uid_hi": missing_hi, "uid_lo": missing_lo, "clip_l14_similarity_score": np.full(100, 0.39)})
    pool = make_pool(root / "pool", hi, lo, bits=3, metadata=metadata, missing=missing)
    table = pa.table({"uid_hi": hi, "uid_lo": lo, "p_keep": np.ones(N, "f4"), "pattern": np.ones(N, "u8")})
    files = put_buckets(ArtifactWriter(str(root / "decisions"), Storage()), table, 3)
    decisions = commit(root / "decisions", "decisions", StageResult(files, {"scales": {}, "method": "majority"}))
    return pool, decisions


class _CountingEngine(Engine):
    def __init__(self):
        super().__init__(ClusterConfig(executor="in_process"), Reporter())
        self.passes = 0

    def map(self, task, items, *, name, **options):
        self.passes += 1
        return super().map(task, items, name=name, **options)


def find(artifacts, config):
    engine = _CountingEngine()
    sources = Sources(*artifacts, tuple(config.names()), tuple(config.clip_columns()), 0)
    found, prepared = find_cuts(engine, Selection(config, sources), 8)
    assert prepared == []
    return found, engine.passes


def test_cut_clauses_of_selected_wait_for_the_cuts_before_them():
    rule = config_of(
        {
            "all": [
                top("a", 0.5),
                {"any": [top("b", 0.5), {"not": top("c", 0.5, "selected")}]},
                top("d", 0.5),
                top("e", 0.5, "selected"),
            ]
        }
    ).rule
    waits = {cut.path: cut.after for cut in cut_clauses(rule)}
    assert waits == {
        (0,): frozenset(),
        (1, 0): frozenset(),
        (1, 1, 0): {(0,)},
        (2,): frozenset(),
        (3,): {(0,), (1, 0), (1, 1, 0), (2,)},
    }


def test_find_cuts_independent_clauses_share_their_passes(artifacts):
    one, passes_of_one = find(artifacts, config_of(top("quality", 0.3)))
    rule = {"any": [top("quality", 0.3), {"bottom": {"by": "quality", "count": 10}}, top("random", 0.1)]}
    three, passes_of_three = find(artifacts, config_of(rule))
    assert passes_of_one == passes_of_three == 1
    assert one[0].threshold == three[0].threshold
    assert [(found.base, found.k) for found in three] == [(N, 300), (N, 10), (N, 100)]


def test_find_cuts_selected_clauses_come_after(artifacts):
    rule = {"all": [top("quality", 0.5), top("random", 0.5, "selected"), top("quality", 0.5, "selected")]}
    found, passes = find(artifacts, config_of(rule))
    assert [(each.base, each.k) for each in found] == [(N, 500), (500, 250), (250, 125)]
    assert 3 <= passes <= 5  # what is ranked among the selected is not bracketed


RULES = [
    top("quality", 0.3),
    {"bottom": {"by": "quality", "count": 10}},
    {"any": [top("quality", 0.97), top("random", 0.01)]},
    {"all": [{"clip_score": {"arch": "l14", "fraction": 0.2}}, top("quality", 0.5, "selected")]},
    {"top": {"by": "quality", "count": 0}},
    top("quality", 1.0),
]
CASES = [*((rule, False) for rule in RULES), (RULES[3], True)]


@pytest.mark.parametrize(("rule", "compatible"), CASES)
@pytest.mark.parametrize("way", ["sampled", "missed", "too many inside", "counted"])
def test_find_cuts_keep_the_same_rows_whatever_way_they_are_found(artifacts, monkeypatch, way, rule, compatible):
    config = config_of(rule, datacomp_compatible=compatible)
    collected, _ = find(artifacts, config)
    if way != "collected":
        monkeypatch.setattr(select_cuts, "MAX_COLLECTED", 0)
    if way == "missed":
        monkeypatch.setattr(select_cuts, "bracket_of", lambda sample, share: Bracket(0, 1))
    if way == "too many inside":
        monkeypatch.setattr(select_cuts, "MAX_INSIDE", 100)
        monkeypatch.setattr(select_cuts, "bracket_of", lambda sample, share: EVERYTHING)
    if way == "counted":
        monkeypatch.setattr(select_cuts, "_brackets", lambda *_: {})
    found, passes = find(artifacts, config)
    assert [kept_of(artifacts, config, each) for each in found] == [
        kept_of(artifacts, config, each) for each in collected
    ]
    assert [(each.base, each.k) for each in found] == [(each.base, each.k) for each in collected]
    if way == "sampled" and rule == RULES[0]:
        assert passes == 1


def test_many_rows_of_one_value_are_searched_for_not_held(artifacts, monkeypatch):
    monkeypatch.setattr(select_cuts, "MAX_COLLECTED", 0)
    config = config_of(top("grade", 0.3))  # one grade
    (held,), passes = find(artifacts, config)
    assert passes == 1
    monkeypatch.setattr(select_cuts, "_MAX_TIED", 0)
    (searched,), passes = find(artifacts, config)
    assert passes > 1
    assert kept_of(artifacts, config, searched) == kept_of(artifacts, config, held)
    _, passes = find(artifacts, config_of(top("quality", 0.3)))
    assert passes == 1


def kept_of(artifacts, config, found):
    """Rows that a cut keeps, by bucket."""
    sources = Sources(*artifacts, tuple(config.names()), tuple(config.clip_columns()), 0)
    selection = Selection(config, sources)
    kept = []
    for bucket in range(8):
        frame = Frame(sources, bucket)
        if isinstance(found.cut.clause, ClipScoreClause):
            values, direction = column_values(frame.table[found.cut.clause.column]), "top"
        else:
            values, direction = frame.values(found.cut.clause.by), found.cut.direction
        inclusive = selection.evaluation().inclusive and isinstance(found.cut.clause, ClipScoreClause)
        keys = Keys(values.keys) if inclusive else frame.keys(values, direction)
        kept.append(found.threshold.keeps(keys).tolist())
    return kept


@pytest.mark.parametrize("rule", [top("quality", 0.3), {"at_least": {"by": "quality", "value": 0.0}}])
def test_buckets_are_prepared_once_in_the_first_pass_before_anything_is_sought(artifacts, monkeypatch, rule):
    monkeypatch.setattr(select_cuts, "_brackets", lambda *_: {})
    seen = []

    class Watched(Frame):
        def __init__(self, sources, bucket, **options):
            seen.append(("frame", bucket))
            super().__init__(sources, bucket, **options)

    def prepare(bucket):
        seen.append(("prepared", bucket))
        return FileEntry(f"{bucket}", 0, 0, "")

    monkeypatch.setattr(select_cuts, "Frame", Watched)
    config = config_of(rule)
    sources = Sources(*artifacts, tuple(config.names()), (), 0)
    _, prepared = find_cuts(_CountingEngine(), Selection(config, sources), 8, prepare)
    assert [entry.path for entry in prepared] == [str(bucket) for bucket in range(8)]
    assert [bucket for what, bucket in seen if what == "prepared"] == list(range(8))
    for bucket in range(8):
        assert ("frame", bucket) not in seen or seen.index(("prepared", bucket)) < seen.index(("frame", bucket))


def test_find_cuts_do_not_depend_on_the_grouping(artifacts, monkeypatch):
    config = config_of({"all": [top("quality", 0.31), top("random", 0.77, "selected")]})
    wide, _ = find(artifacts, config)
    monkeypatch.setattr(select_cuts, "bucket_groups", lambda buckets, groups: [tuple(range(buckets))])
    narrow, _ = find(artifacts, config)
    assert [found.threshold for found in wide] == [found.threshold for found in narrow]


def test_find_cuts_datacomp_base_is_all_metadata_rows(artifacts):
    config = config_of({"clip_score": {"arch": "l14", "fraction": 0.2}}, datacomp_compatible=True)
    (found,), _ = find(artifacts, config)
    assert (found.base, found.k) == (1100, 221)
    (plain,), _ = find(artifacts, config_of({"clip_score": {"arch": "l14", "fraction": 0.2}}))
    assert (plain.base, plain.k) == (N, 200)


def test_find_cuts_samples_without_metadata_are_no_metadata_rows(artifacts):
    pool, decisions = artifacts
    fewer = commit(
        Path(pool.root),
        "pool",
        StageResult(pool.manifest.files, {**pool.summary, "without_metadata": 100}),
    )
    config = config_of({"clip_score": {"arch": "l14", "fraction": 0.2}}, datacomp_compatible=True)
    (found,), _ = find((fewer, decisions), config)
    assert (found.base, found.k) == (1000, 201)


@pytest.mark.parametrize(
    ("clause", "compatible", "base", "rows"),
    [
        (top("x", 0.29), False, 100, 29),
        ({"top": {"by": "x", "count": 7}}, False, 100, 7),
        ({"clip_score": {"arch": "b32", "fraction": 0.34}}, False, 6, 2),
        ({"clip_score": {"arch": "b32", "fraction": 0.34}}, True, 6, 3),
        ({"clip_score": {"arch": "b32", "fraction": 1.0}}, True, 6, 7),
    ],
)
def test_wanted_rows_by_clause(clause, compatible, base, rows):
    config = config_of(clause, datacomp_compatible=compatible)
    (cut,) = cut_clauses(config.rule)
    assert wanted_rows(cut, base, config) == rows
