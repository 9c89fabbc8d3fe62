import pytest

from pipeline.errors import UserError
from stages.pool.quarantine import QUARANTINE, Broken, ShardTally, check_share, quarantine_table

GOOD = ShardTally("good.tar", 90, {})
BAD = ShardTally("bad.tar", 10, {"no_caption": 6, "broken_image": 1})


@pytest.mark.parametrize("share", [0.07, 0.5, 1.0])
def test_check_share_within_the_limit_passes(share: float) -> None:
    check_share([GOOD, BAD], share, "pool")


@pytest.mark.parametrize(
    ("tallies", "share"), [([GOOD, BAD], 0.069), ([ShardTally("a", 2, {"no_uid": 2})], 0.5), ([], 1.0)]
)
def test_check_share_beyond_the_limit_stops(tallies: list[ShardTally], share: float) -> None:
    with pytest.raises(UserError):
        check_share(tallies, share, "pool")


def test_check_share_message_names_the_worst_shards_first() -> None:
    many = [ShardTally(f"{n}.tar", 10, {"no_uid": n}) for n in range(9)]
    with pytest.raises(UserError) as raised:
        check_share(many, 0.1, "pool")
    lines = [line.strip() for line in str(raised.value).splitlines() if ".tar:" in line]
    assert [line.split(":")[0] for line in lines] == [f"{n}.tar" for n in (8, 7, 6, 5, 4)]


def test_table_of_nothing_has_the_schema() -> None:
    assert quarantine_table([]).schema == QUARANTINE


def test_table_holds_texts_that_parquet_cannot() -> None:
    rows = [Broken(1, 512, "half \ud800 pair", None, "bad_name", "x" * 10_000)]
    row = quarantine_table(rows).to_pylist()[0]
    assert (row["member"], len(row["detail"]), row["uid"]) == ("half ? pair", 300, None)
