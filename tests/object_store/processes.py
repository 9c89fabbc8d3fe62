"""Processes of the tests' own, forked from a server that has imported everything already."""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.object_store.hold_lease", "tests.object_store.short_run", "pipeline.storage_s3"])
PATIENCE = 240.0
"""Seconds after which a process that says nothing has failed."""
