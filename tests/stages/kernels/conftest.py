"""Property tests take their time on a busy machine; no deadline makes them flaky."""

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
