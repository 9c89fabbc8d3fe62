"""Inputs of any size for benchmarks: uids like real ones, score tables, ledgers, metadata, pools."""
