from stages.formats import side_files


def test_names_are_those_that_datacomps_tools_format() -> None:
    meta = side_files.meta([3, 2], shard_size=3, num_processed=9)
    assert str(meta["output_shard_format"]).format(7) == side_files.shard_name(7) == "00000007.tar"
    assert str(meta["output_shard_stats_format"]).format(7) == side_files.stats_name(7) == "00000007_stats.json"


def test_sizes_are_keyed_by_base_name_and_sum_to_the_output() -> None:
    assert side_files.sizes([3, 2]) == {"00000000.tar": 3, "00000001.tar": 2}
    assert side_files.stats(3) == {"successes": 3}


def test_meta_counts_are_numbers_and_arguments_are_strings() -> None:
    meta = side_files.meta([3, 2], shard_size=3, num_processed=9)
    assert (meta["output_shard_count"], meta["output_count"], meta["processed_count"]) == (2, 5, 9)
    assert meta["shard_size"] == "3"
