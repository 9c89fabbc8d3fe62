"""Subsets against plain set arithmetic on sorted lists."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.errors import RunError, UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StageResult
from pipeline.storage import Storage
from stages.kernels.uid import to_hex, to_records
from stages.select import SelectConfig, SelectStage
from tests.artifacts import commit, context, listed, run_stage
from tests.stages.uid_tables import make_pool, put_buckets, random_uids, read_all

N = 500
RATES = RatesConfig().model_dump()


class World:
    """A pool with metadata, decisions with a tied p_keep, a `mimic` score that a tenth of the samples lacks."""

    def __init__(self, root, bits=0, seed=0):
        rng = np.random.default_rng(seed)
        self.root, self.bits = root / f"bits-{bits}", bits
        self.hi, self.lo = random_uids(N, seed)
        self.seen = rng.random(N) > 0.1
        self.mimic = rng.normal(size=N).astype(np.float32)
        self.p_keep = rng.choice([0.1, 0.5, 0.9], N).astype(np.float32)
        self.mean = rng.choice(np.linspace(0, 1, 20), N).astype(np.float32)
        self.clip = rng.choice(np.linspace(0, 0.4, 60), N)
        self.clip[rng.random(N) < 0.02] = np.nan
        metadata = {
            "clip_l14_similarity_score": pa.array(self.clip, pa.float64(), from_pandas=True),
            "text": pa.array([f"a photo of number {i}" for i in range(N)]),
            "original_width": pa.array(rng.integers(150, 700, N), pa.int64()),
            "original_height": pa.array(rng.integers(150, 700, N), pa.int64()),
        }
        hi, lo = random_uids(77, seed + 99)
        self.missing_clip = rng.choice(np.linspace(0, 0.4, 60), 77)
        missing = pa.table({"uid_hi": hi, "uid_lo": lo, "clip_l14_similarity_score": self.missing_clip})
        self.pool = make_pool(self.root / "pool", self.hi, self.lo, bits=bits, metadata=metadata, missing=missing)
        decisions = pa.table(
            {
                "uid_hi": self.hi,
                "uid_lo": self.lo,
                "p_keep": self.p_keep,
                "pattern": self.seen.astype(np.uint64),
                "mean_score": pa.array(self.mean, mask=~self.seen),
                "score__mimic": pa.array(self.mimic, mask=~self.seen),
            }
        )
        files = put_buckets(ArtifactWriter(str(self.root / "decisions"), Storage()), decisions, bits)
        summary = {"scales": {"mimic": "batch_rank"}, "method": "label_model", "bucket_bits": bits}
        self.decisions = commit(self.root / "decisions", "decisions", StageResult(files, summary))

    def select(self, rule, *, external=None, **block):
        config = SelectConfig.model_validate({"rule": rule, **block})
        out = self.root / hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        inputs = {"pool": self.pool, "decisions": self.decisions}
        return run_stage(SelectStage(config), out, "subset", inputs=inputs, external=external)

    def kept(self, artifact):
        """Which rows of the pool are in the subset file: [N]."""
        ids = np.load(artifact.uri("sample_ids.npy"))
        assert ids.dtype == np.dtype("u8,u8")
        assert np.array_equal(ids, np.sort(ids))
        return np.isin(to_records(self.hi, self.lo), ids)

    def best(self, *columns, k, rows=None):
        """The k best rows by these columns, descending, then by uid: [N]."""
        rows = np.arange(N) if rows is None else np.flatnonzero(rows)
        order = rows[np.lexsort((self.lo[rows], self.hi[rows], *(-column[rows] for column in columns[::-1])))]
        return np.isin(np.arange(N), order[:k])


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, bits=2)


def top(by, fraction, of="pool"):
    return {"top": {"by": by, "fraction": fraction, "of": of}}


def bottom(by, fraction, of="pool"):
    return {"bottom": {"by": by, "fraction": fraction, "of": of}}


CLIP = "clip_l14_similarity_score"


def test_select_top_by_decision_breaks_ties_by_mean_score_then_uid(world):
    subset = world.select(top("p_keep", 0.41, "scored"))
    k = 41 * int(world.seen.sum()) // 100
    assert np.array_equal(world.kept(subset), world.best(world.p_keep, world.mean, k=k, rows=world.seen))
    assert subset.summary["kept"] == k


@pytest.mark.parametrize(("of", "base"), [("pool", N), ("scored", None)])
def test_select_top_by_selector_counts_its_base(world, of, base):
    subset = world.select(top("mimic", 0.3, of))
    k = 3 * (base or int(world.seen.sum())) // 10
    assert np.array_equal(world.kept(subset), world.best(world.mimic, k=k, rows=world.seen))


def test_select_top_by_metadata_in_double_precision_never_keeps_nan(world):
    present = ~np.isnan(world.clip)
    subset = world.select(top(CLIP, 0.999))
    assert np.array_equal(world.kept(subset), present)
    subset = world.select(top(CLIP, 0.3))
    assert np.array_equal(world.kept(subset), world.best(np.nan_to_num(world.clip), k=150, rows=present))


def test_select_clip_top_minus_mimic_bottom_of_the_pool_is_one_rule(world):
    subset = world.select({"all": [top(CLIP, 0.3), {"not": bottom("mimic", 0.05)}]}, unscored="keep")
    clip = world.best(np.nan_to_num(world.clip), k=150, rows=~np.isnan(world.clip))
    worst = world.best(-world.mimic, k=25, rows=world.seen)
    assert np.array_equal(world.kept(subset), clip & ~worst)
    assert subset.summary["unscored"]["samples"] == (clip & ~world.seen).sum() > 0
    assert subset.summary["dropped"]["bottom 0.05 of pool by mimic"] == (clip & worst).sum()


def test_select_of_selected_ranks_what_the_clauses_before_kept(world):
    subset = world.select({"all": [top(CLIP, 0.5), {"not": bottom("mimic", 0.2, "selected")}]})
    clip = world.best(np.nan_to_num(world.clip), k=250, rows=~np.isnan(world.clip))
    worst = world.best(-world.mimic, k=50, rows=clip & world.seen)
    assert np.array_equal(world.kept(subset), clip & world.seen & ~worst)
    assert [cut["base"] for cut in subset.summary["cuts"]] == [N, 250]


def test_select_of_selected_chains_over_several_clauses(world):
    rule = {"all": [top(CLIP, 0.6), top("p_keep", 0.5, "selected"), top("random", 0.5, "selected")]}
    subset = world.select(rule)
    clip = world.best(np.nan_to_num(world.clip), k=300, rows=~np.isnan(world.clip))
    both = world.best(world.p_keep, world.mean, k=150, rows=clip & world.seen)
    assert [(cut["base"], cut["asked"]) for cut in subset.summary["cuts"]] == [(N, 300), (300, 150), (150, 75)]
    assert (world.kept(subset) <= both).all()
    assert world.kept(subset).sum() == 75


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_select_unscored_samples_follow_the_policy_where_they_decide(world, policy):
    subset = world.select({"all": [top(CLIP, 0.5), top("mimic", 1.0)]}, unscored=policy)
    clip = world.best(np.nan_to_num(world.clip), k=250, rows=~np.isnan(world.clip))
    open_ = clip & ~world.seen
    assert np.array_equal(world.kept(subset), clip & world.seen | (open_ if policy == "keep" else False))
    assert subset.summary["unscored"] == {"policy": policy, "samples": int(open_.sum())}
    assert subset.summary["dropped"].get("unscored", 0) == (0 if policy == "keep" else open_.sum())


def test_select_any_and_at_least_hold_by_kleene_logic(world):
    subset = world.select({"any": [{"at_least": {"by": CLIP, "value": 0.2}}, top("mimic", 0.1)]})
    mimic = world.best(world.mimic, k=50, rows=world.seen)
    assert np.array_equal(world.kept(subset), (np.nan_to_num(world.clip, nan=-1) >= 0.2) | mimic)
    assert subset.summary["unscored"]["samples"] == (~(np.nan_to_num(world.clip, nan=-1) >= 0.2) & ~world.seen).sum()


def test_select_count_and_pool_columns_and_random(world):
    assert world.select({"top": {"by": "random", "count": 123}}).summary["kept"] == 123
    assert world.select({"at_least": {"by": "width", "value": 65}}).summary["kept"] == 0
    first, other = (world.select(top("random", 0.5), seed=seed) for seed in (0, 1))
    overlap = (world.kept(first) & world.kept(other)).sum()
    assert 90 < overlap < 160


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.77, 1.0])
def test_select_datacomp_cut_is_inclusive_over_all_metadata_rows(world, fraction):
    subset = world.select({"clip_score": {"arch": "l14", "fraction": fraction}}, datacomp_compatible=True)
    scores = np.concatenate([world.clip, world.missing_clip])
    ranked = np.sort(np.nan_to_num(scores, nan=-np.inf))[::-1]
    threshold = ranked[min(int(len(scores) * fraction), len(scores) - 1)]
    assert np.array_equal(world.kept(subset), (world.clip >= threshold) & ~np.isnan(world.clip))


def test_select_clip_score_threshold_is_inclusive(world):
    value = float(np.nanmedian(world.clip))
    subset = world.select({"clip_score": {"arch": "l14", "threshold": value}})
    assert np.array_equal(world.kept(subset), np.nan_to_num(world.clip, nan=-1) >= value)


def test_select_excluded_uids_always_lose_and_are_counted(world, tmp_path):
    plain = world.kept(world.select(top("p_keep", 0.5)))
    hidden = np.flatnonzero(plain)[:30]
    np.save(tmp_path / "a.npy", to_records(world.hi, world.lo)[hidden[:10]])
    uids = to_hex(world.hi, world.lo)
    pq.write_table(pa.table({"uid": uids.take(pa.array(hidden[10:20]))}), tmp_path / "b.parquet")
    lines = [uids[int(row)].as_py().upper() for row in hidden[20:]] + ["f" * 32]
    (tmp_path / "c.txt").write_text("\n".join(lines) + "\n")
    files = [str(tmp_path / name) for name in ("a.npy", "b.parquet", "c.txt")]
    subset = world.select(top("p_keep", 0.5), exclude=files)
    assert subset.summary["excluded"] == {"listed": 31, "in_pool": 30}
    assert subset.summary["dropped"]["excluded"] == 30
    assert np.array_equal(world.kept(subset), plain & ~np.isin(np.arange(N), hidden))


def test_select_every_sample_has_one_reason(world):
    rule = {"all": [{"basic": {"language": "any"}}, {"not": bottom("p_keep", 0.2)}, top(CLIP, 0.9)]}
    subset = world.select(rule)
    reasons = read_all(subset, "reasons/")
    assert reasons["uid_lo"].to_pylist() == world.lo.tolist()
    found = dict(zip(*np.unique(reasons["reason"].to_numpy(zero_copy_only=False), return_counts=True), strict=True))
    assert found == {"kept": subset.summary["kept"], **subset.summary["dropped"]}
    assert set(found) == {
        "kept",
        "not basic",
        "bottom 0.2 of pool by p_keep",
        f"not top 0.9 of pool by {CLIP}",
        "unscored",
    }


RULE = {
    "all": [
        top(CLIP, 0.8),
        {"any": [top("p_keep", 0.4), {"not": bottom("mimic", 0.3, "selected")}]},
        top("p_keep", 0.7, "selected"),
    ]
}


def test_select_subset_does_not_depend_on_buckets_or_collected_candidates(tmp_path, monkeypatch):
    one, many = World(tmp_path, bits=0), World(tmp_path, bits=4)
    first, second = one.select(RULE), many.select(RULE)
    assert first.read_bytes("sample_ids.npy") == second.read_bytes("sample_ids.npy")
    assert first.summary == second.summary
    monkeypatch.setattr("stages.kernels.radix.MAX_COLLECTED", 0)
    digits = many.select(RULE, seed=1)
    assert digits.read_bytes("sample_ids.npy") == first.read_bytes("sample_ids.npy")


def test_select_golden_subset_file(tmp_path):
    hi = np.arange(4, dtype=np.uint64) << np.uint64(62)
    lo = np.arange(4, dtype=np.uint64)
    world = World(tmp_path)
    world.root, world.hi, world.lo = tmp_path / "golden", hi, lo
    world.pool = make_pool(tmp_path / "golden/pool", hi, lo, bits=1, metadata={"q": pa.array([0.5, -0.0, 0.0, None])})
    table = pa.table({"uid_hi": hi, "uid_lo": lo, "p_keep": np.ones(4, "f4"), "pattern": np.ones(4, "u8")})
    files = put_buckets(ArtifactWriter(str(tmp_path / "golden/d"), Storage()), table, 1)
    world.decisions = commit(tmp_path / "golden/d", "decisions", StageResult(files, {"scales": {}, "method": "x"}))
    data = world.select({"top": {"by": "q", "count": 2}}).read_bytes("sample_ids.npy")
    assert np.load(io.BytesIO(data)).tolist() == [(0, 0), (1 << 62, 1)]
    sink = io.BytesIO()
    np.save(sink, to_records(hi[:2], lo[:2]))
    assert data == sink.getvalue()
    assert hashlib.sha256(data).hexdigest() == "7599ab9efbe54b1f536207b60fb07661c754cd329b8e1d5f2c75223a8a07ddb5"


def test_select_reads_reasons_as_plain_text(world):
    subset = world.select(top("mimic", 0.3, "pool"))
    table = pq.read_table(subset.uri("reasons/bucket-00000.parquet"))
    assert table.schema.field("reason").type == pa.string()
    assert {"kept"} < set(table["reason"].to_pylist())


def test_select_refuses_decisions_of_other_samples(world):
    _, other = random_uids(N, 1)
    table = pa.table({"uid_hi": world.hi, "uid_lo": other, "p_keep": world.p_keep, "pattern": np.ones(N, "u8")})
    table = table.append_column("mean_score", pa.array(world.mean))
    files = put_buckets(ArtifactWriter(str(world.root / "others"), Storage()), table, world.bits)
    summary = {"scales": {}, "method": "label_model", "bucket_bits": world.bits}
    world.decisions = commit(world.root / "others", "decisions", StageResult(files, summary))
    with pytest.raises(RunError, match="do not list the same samples"):
        world.select(top("p_keep", 0.3))


def test_select_keeping_nothing_warns_and_writes_an_empty_file(world, capsys):
    subset = world.select({"top": {"by": "p_keep", "count": 0}})
    assert world.kept(subset).sum() == 0
    assert "keeps no sample" in capsys.readouterr().err


def test_select_deliverable_can_be_replaced_by_another_rule(world):
    out = world.root / "subset"
    inputs = {"pool": world.pool, "decisions": world.decisions}
    writer = ArtifactWriter(str(out), Storage(), overwrite=True)
    for fraction, kept in ((0.2, 100), (0.4, 200)):
        stage = SelectStage(SelectConfig.model_validate({"rule": top("random", fraction)}))
        run_in = context(out, inputs=inputs)
        object.__setattr__(run_in, "output", writer)
        subset = commit(out, "subset", stage.run(run_in))
        assert len(np.load(subset.uri("sample_ids.npy"))) == kept


def test_select_name_that_nothing_has_lists_what_there_is(world):
    with pytest.raises(UserError, match=r"mimc[\s\S]*mimic[\s\S]*clip_l14_similarity_score"):
        world.select(top("mimc", 0.3))


def test_select_column_of_text_cannot_be_ranked(world):
    with pytest.raises(UserError, match="'text' cannot be ranked"):
        world.select(top("text", 0.3))


def test_select_preflight_missing_metadata_column_lists_those_there_are(tmp_path):
    pq.write_table(pa.table({"uid": ["0"], "text": ["x"]}), tmp_path / "0.parquet")
    config = SelectConfig.model_validate({"rule": {"all": [{"clip_score": {"arch": "b32", "fraction": 0.3}}]}})
    stage = SelectStage(config, metadata=str(tmp_path))
    assert not stage.external()["metadata"].identity
    with pytest.raises(UserError, match=r"clip_b32_similarity_score[\s\S]*columns uid, text"):
        stage.preflight({"metadata": listed(tmp_path, ".parquet")}, Storage())


def test_select_preflight_knows_selectors_and_reserved_names(tmp_path):
    pq.write_table(pa.table({"uid": ["0"], "quality": [1.0]}), tmp_path / "0.parquet")
    external = {"metadata": listed(tmp_path, ".parquet")}
    rule = {"all": [top(name, 0.5) for name in ("p_keep", "random", "mimic", "width", "quality")]}
    SelectStage(SelectConfig.model_validate({"rule": rule}), str(tmp_path), ["mimic"]).preflight(external, Storage())
    bad = SelectConfig.model_validate({"rule": top("loss", 0.5)})
    with pytest.raises(UserError, match="loss"):
        SelectStage(bad, str(tmp_path), ["mimic"]).preflight(external, Storage())


@pytest.mark.parametrize(
    ("rule", "column", "expected"),
    [
        (top("text", 0.5), "text", "integers, floats or booleans"),
        ({"at_least": {"by": "tags", "value": 1}}, "tags", "integers, floats or booleans"),
        ({"clip_score": {"arch": "b32", "fraction": 0.3}}, "clip_b32_similarity_score", "integers or floats"),
        ({"basic": {"language": "any", "width": "text", "height": "size"}}, "text", "integers or floats"),
        ({"basic": {"language": "any", "text": "count", "width": "size", "height": "size"}}, "count", "strings"),
        ({"basic": {"language": "column:count", "width": "size", "height": "size"}}, "count", "strings"),
    ],
)
def test_select_preflight_refuses_columns_of_another_kind(tmp_path, rule, column, expected):
    columns = {
        "uid": ["0"],
        "text": ["x"],
        "tags": [["a"]],
        "size": [3],
        "count": [3],
        "clip_b32_similarity_score": ["x"],
    }
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    stage = SelectStage(SelectConfig.model_validate({"rule": rule}), str(tmp_path), ["mimic"])
    with pytest.raises(UserError, match=f"the rule cannot use metadata column {column}") as error:
        stage.preflight({"metadata": listed(tmp_path, ".parquet")}, Storage())
    assert expected in str(error.value)
    assert "select.rule" in str(error.value)


def test_select_preflight_refuses_a_broken_exclusion_list(tmp_path):
    (tmp_path / "ids.txt").write_text("not a uid\n")
    stage = SelectStage(SelectConfig(exclude=[str(tmp_path / "ids.txt")]))
    assert stage.external()["exclude/0"].uri == str(tmp_path / "ids.txt")
    with pytest.raises(UserError, match="not a list of uids"):
        stage.preflight({}, Storage())


def test_select_plan_memory_does_not_grow_with_the_pool():
    plans = [
        SelectStage(SelectConfig()).plan({"pool": Size(n, n), "decisions": Size(n, n)}, RATES) for n in (2**24, 2**30)
    ]
    assert plans[0].peak_task_bytes == plans[1].peak_task_bytes < 2**30
    assert plans[0].output.rows == round(0.3 * 2**24)
