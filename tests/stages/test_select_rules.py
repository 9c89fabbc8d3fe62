"""Random rules against a plain evaluator in Python: rows one by one, sorting, three-valued logic."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.select_config import SelectConfig
from stages.select_cuts import Selection, find_cuts
from stages.select_frame import Frame, Sources
from tests.artifacts import commit
from tests.stages.uid_tables import make_pool, put_buckets, random_uids

N = 40
RNG = np.random.default_rng(5)
SCORE = [None if absent else int(v) for v, absent in zip(RNG.integers(0, 6, N), RNG.random(N) < 0.2, strict=True)]
META = [None if absent else float(v) for v, absent in zip(RNG.integers(0, 9, N), RNG.random(N) < 0.1, strict=True)]
P_KEEP = RNG.choice([0.1, 0.5, 0.9], N).astype(np.float32).tolist()
MEAN = RNG.choice([0.2, 0.4, 0.6], N).astype(np.float32).tolist()
VOTED = (RNG.random(N) > 0.15).tolist()


NOT_RANKED = {
    "not": {
        "all": [
            {"at_least": {"by": "mimic", "value": 0}},
            {"top": {"by": "mimic", "of": "pool", "fraction": 0.1}},
            {"top": {"by": "meta", "of": "selected", "fraction": 0.29}},
        ]
    }
}
"""A row without a mimic score is not among those that the last clause ranks, so it is not chosen: known, not open."""


def ranked(before):
    of = ["pool", "scored", "selected"] if before else ["pool", "scored"]
    by, base = st.sampled_from(["mimic", "meta", "p_keep"]), st.sampled_from(of)
    fraction = st.builds(
        lambda by, of, f: {"by": by, "of": of, "fraction": f}, by, base, st.sampled_from([0.1, 0.29, 0.5, 1.0])
    )
    count = st.builds(lambda by, of, k: {"by": by, "of": of, "count": k}, by, base, st.integers(0, N + 3))
    return st.builds(lambda name, clause: {name: clause}, st.sampled_from(["top", "bottom"]), fraction | count)


def rules(before, depth):
    leaf = ranked(before) | st.builds(
        lambda by, value: {"at_least": {"by": by, "value": value}},
        st.sampled_from(["mimic", "meta"]),
        st.integers(0, 8),
    )
    if depth == 0:
        return leaf
    inner = rules(before, depth - 1)
    chain = st.tuples(inner, *[rules(True, depth - 1)] * 2).map(list)
    nested = st.builds(
        lambda name, some: {name: some}, st.sampled_from(["any", "all"]), st.lists(inner, min_size=1, max_size=3)
    )
    return leaf | nested | chain.map(lambda some: {"all": some}) | inner.map(lambda one: {"not": one})


class Plain:
    """The same rule by the slow way."""

    def __init__(self, hi, lo, unscored):
        self.uid = list(zip(hi.tolist(), lo.tolist(), strict=True))
        self.unscored = unscored

    def value(self, by, row):
        if by == "p_keep":
            return (P_KEEP[row], MEAN[row]) if VOTED[row] else None
        value = (SCORE if by == "mimic" else META)[row]
        return None if value is None else (value,)

    def truth(self, rule, before):
        """True, False or None for each row."""
        (name, clause), *_ = rule.items()
        if name == "not":
            return [None if t is None else not t for t in self.truth(clause, before)]
        if name in ("all", "any"):
            seen, results = list(before), []
            for child in clause:
                results.append(self.truth(child, seen))
                if name == "all":
                    seen.append((child, list(seen)))
            decisive = name == "any"
            return [
                decisive if decisive in row else None if None in row else not decisive
                for row in zip(*results, strict=True)
            ]
        by = clause["by"]
        values = [self.value(by, row) for row in range(N)]
        absent = False if by == "meta" else None
        if name == "at_least":
            return [absent if v is None else v[0] >= clause["value"] for v in values]
        rows = [row for row in range(N) if values[row] is not None]
        base = {"pool": N, "scored": len(rows)}.get(clause["of"])
        if clause["of"] == "selected":
            letting = [self.truth(child, outer) for child, outer in before]
            inside = [
                row for row in range(N)
                if all(t[row] is True or (t[row] is None and self.unscored == "keep") for t in letting)
            ]  # fmt: skip
            rows, base = [row for row in rows if row in inside], len(inside)
        k = clause["count"] if "count" in clause else int(Decimal(str(clause["fraction"])) * base)
        sign = -1 if name == "top" else 1
        chosen = sorted(rows, key=lambda row: (tuple(sign * part for part in values[row]), self.uid[row]))[:k]
        return [absent if v is None else row in chosen for row, v in enumerate(values)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("rules")
    hi, lo = random_uids(N, seed=2)
    pool = make_pool(root / "pool", hi, lo, bits=2, metadata={"meta": pa.array(META, pa.float64())})
    decisions = pa.table(
        {
            "uid_hi": hi,
            "uid_lo": lo,
            "p_keep": pa.array(P_KEEP, pa.float32()),
            "pattern": pa.array([int(voted) for voted in VOTED], pa.uint64()),
            "mean_score": pa.array(MEAN, pa.float32()),
            "score__mimic": pa.array(SCORE, pa.float32()),
        }
    )
    files = put_buckets(ArtifactWriter(str(root / "decisions"), Storage()), decisions, 2)
    committed = commit(root / "decisions", "decisions", StageResult(files, {"scales": {"mimic": "raw"}, "method": "x"}))
    return hi, lo, pool, committed


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rule=rules(False, 2), unscored=st.sampled_from(["keep", "drop"]))
@example(rule=NOT_RANKED, unscored="drop")
def test_rules_equal_a_plain_evaluator(sources, rule, unscored):
    hi, lo, pool, decisions = sources
    config = SelectConfig.model_validate({"rule": rule, "unscored": unscored})
    selection = Selection(config, Sources(pool, decisions, tuple(config.names()), (), 0))
    cuts, _ = find_cuts(Engine(ClusterConfig(executor="in_process"), Reporter()), selection, 4)
    evaluation = selection.with_cuts({found.cut.path: found.threshold for found in cuts}).evaluation()
    holds, fails = [], []
    for bucket in range(4):
        verdict = evaluation.verdict(config.rule, Frame(selection.sources, bucket))
        holds += verdict.holds.tolist()
        fails += verdict.fails.tolist()
    found = [True if h else False if f else None for h, f in zip(holds, fails, strict=True)]
    wanted = Plain(hi, lo, unscored).truth(rule, [])
    kept = [t is True or (t is None and unscored == "keep") for t in found]
    assert kept == [t is True or (t is None and unscored == "keep") for t in wanted]
