from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage import Stat
from stages.pool.draw import draw_shards


def files_of(root: str, names: list[str]) -> list[Stat]:
    return [Stat(f"{root}/{name}", 1, "v") for name in sorted(names)]


def names_of(drawn: list[Stat], root: str) -> list[str]:
    return [stat.uri.removeprefix(f"{root}/") for stat in drawn]


paths = st.lists(st.from_regex(r"[a-z]{1,3}/[0-9]{1,4}\.tar", fullmatch=True), min_size=1, max_size=30, unique=True)


@settings(deadline=None)
@given(paths, st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 2**32))
def test_draw_larger_share_holds_the_smaller_one_wherever_the_pool_lies(
    names: list[str], one: float, other: float, seed: int
) -> None:
    small, large = sorted((one, other))
    here = {share: draw_shards(files_of("/pool", names), share, seed, root="/pool") for share in (small, large)}
    assert set(here[small]) <= set(here[large])
    for share, drawn in here.items():
        assert share * len(names) <= len(drawn) < share * len(names) + 1
        assert drawn == sorted(drawn, key=lambda stat: stat.uri)
        moved = draw_shards(files_of("s3://bucket/x", names), share, seed, root="s3://bucket/x")
        assert names_of(moved, "s3://bucket/x") == names_of(drawn, "/pool")


def test_draw_shard_that_is_added_later_displaces_few() -> None:
    """A trial of a growing pool goes on with nearly the same shards."""
    names = [f"{number:08d}.tar" for number in range(100)]
    before = draw_shards(files_of("/p", names), 0.2, 0, root="/p")
    after = draw_shards(files_of("/p", [*names, "00000100.tar"]), 0.2, 0, root="/p")
    assert len(set(before) & set(after)) >= len(before) - 1


def test_draw_every_shard_has_about_the_same_chance() -> None:
    files = files_of("/p", [f"{number:08d}.tar" for number in range(20)])
    times = dict.fromkeys(files, 0)
    for seed in range(400):
        for stat in draw_shards(files, 0.25, seed, root="/p"):
            times[stat] += 1
    assert 60 < min(times.values()) <= max(times.values()) < 145  # 100 expected, 8.7 the standard deviation


def test_draw_a_pool_of_one_file_is_that_file() -> None:
    alone = [Stat("/pool/one.tar", 1, "v")]
    assert draw_shards(alone, 0.01, 3, root="/pool/one.tar") == alone
