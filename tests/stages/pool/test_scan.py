from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.storage import Storage
from stages.pool.scan import POOL_SCHEMA, ShardRef, ShardScan, scan_shard
from tests.stages.pool.pools import Pair, archive, pair, shard_bytes, uid_of

PAIRS = [pair(n) for n in range(4)]
WHOLE = shard_bytes(PAIRS)


def scan(path: Path, data: bytes) -> ShardScan:
    path.write_bytes(data)
    return scan_shard(Storage(), ShardRef(3, path.name, str(path), len(data), ""), "headers")


def places(found: ShardScan) -> list[tuple[int, int]]:
    return list(zip(found.table["offset"].to_pylist(), found.table["length"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ShardScan:
    return scan(tmp_path_factory.mktemp("whole") / "s.tar", WHOLE)


def test_scan_whole_shard_has_the_declared_columns(whole: ShardScan) -> None:
    assert whole.table.schema == POOL_SCHEMA
    assert (whole.table.num_rows, whole.broken, whole.fault) == (4, [], None)
    assert set(whole.table["shard"].to_pylist()) == {3}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(WHOLE) - 1))
def test_scan_cut_anywhere_keeps_whole_samples_and_blames_at_most_one(
    tmp_path: Path, whole: ShardScan, cut: int
) -> None:
    found = scan(tmp_path / "s.tar", WHOLE[:cut])
    before = [place for place in places(whole) if sum(place) <= cut]
    assert places(found) == before
    assert len(found.broken) <= 1
    assert {row.reason for row in found.broken} <= {"truncated_tar"}
    if cut < sum(places(whole)[-1]) and cut not in {offset for offset, _ in places(whole)[1:]}:
        assert len(found.broken) == 1


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_scan_damaged_shard_accounts_for_each_sample_group(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(WHOLE)
    for place in rng.integers(0, len(data), 5):
        data[place] = int(rng.integers(256))
    found = scan(tmp_path / "s.tar", bytes(data))
    assert found.seen == found.table.num_rows + len(found.broken)
    offsets = [row.offset for row in found.broken]
    assert offsets == sorted(offsets)
    assert not set(offsets) & set(found.table["offset"].to_pylist())


def test_scan_sample_cut_before_its_caption_file_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Its json has the caption, so that only the sample before it tells what is lacking."""
    members = [member for item in PAIRS[:2] for member in item.members()]
    end_of_json = len(archive(members[:-1]).rstrip(b"\0")) // 512 * 512 + 512
    for tail in (0, 100):
        found = scan(tmp_path / "s.tar", WHOLE[: end_of_json + tail])
        assert found.table.num_rows == 1
        assert [(row.reason, row.member) for row in found.broken] == [("truncated_tar", PAIRS[1].key)]


def test_scan_counts_what_was_put_into_normal_form(tmp_path: Path) -> None:
    members = [*Pair("1", "AB").members(), ("README", b"x"), *pair(2).members()]
    found = scan(tmp_path / "s.tar", archive(members))
    assert {name: count for name, count in found.normalised.items() if count} == {"uid": 1, "ignored_member": 1}
    assert found.table["uid_lo"].to_pylist()[0] == 0xAB


def test_scan_text_is_measured_in_code_points_and_words(tmp_path: Path) -> None:
    found = scan(tmp_path / "s.tar", shard_bytes([Pair("1", uid_of(1), " größe\t🖼 \n drei ")]))
    assert (found.table["text_len"].to_pylist(), found.table["words"].to_pylist()) == ([len(" größe\t🖼 \n drei ")], [3])
