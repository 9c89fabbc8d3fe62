from pathlib import Path

import pyarrow as pa
import pytest

from stages.formats.recut import rows_of_bucket
from tests.stages.train.tiny_pool import make_pool


@pytest.mark.parametrize("own", [0, 1, 3])
@pytest.mark.parametrize("bits", [0, 2, 4])
def test_rows_of_a_bucket_are_the_same_however_the_table_is_cut(tmp_path: Path, own: int, bits: int) -> None:
    pool, _ = make_pool(tmp_path, [20, 30], bits=own)
    columns = ["uid_hi", "uid_lo", "shard"]
    whole = pa.concat_tables(pool.tables("index/", columns)).sort_by([("uid_hi", "ascending")])
    found = [rows_of_bucket(pool, "index", bucket, bits, columns) for bucket in range(1 << bits)]
    assert pa.concat_tables(found).equals(whole)
    for bucket, table in enumerate(found):
        assert {hi >> (64 - bits) if bits else 0 for hi in table["uid_hi"].to_pylist()} <= {bucket}
