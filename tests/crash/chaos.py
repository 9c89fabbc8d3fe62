"""Random kills: `python -m tests.crash.chaos [--kills 100] [--seed N] [--ray 0.2]`.

Each round runs the tiny configuration in a new output and kills it at a random moment, again and again, until it
comes to its end between two kills; then its result must be the undisturbed one's. The seed is printed first, and
gives the same victims and delays again (not the same moments: those are the machine's).
"""

import argparse
import random
import shutil
import signal
import subprocess
import tempfile
import time
from os import kill
from pathlib import Path

from pipeline.progress import Reporter
from stages.pool.demo import make_pool
from tests.crash.scenes import (
    IN_PROCESS,
    RAY,
    finish,
    kill_session,
    num_scored,
    result,
    run,
    session_processes,
    start,
)

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_KINDS = ("driver", "driver", "worker", "raylet", "all workers")


class Chaos:
    """A seeded source of harm, and the count of what it did."""

    def __init__(self, folder: Path, seed: int, kills: int, ray_share: float) -> None:
        """Make the pool and the undisturbed run."""
        self._folder, self._random, self._wanted_kills, self._ray_share = folder, random.Random(seed), kills, ray_share
        self.kills = 0
        self.rounds = 0
        make_pool(str(folder / "pool"), num_samples=512, seed=0, reporter=Reporter())
        begun = time.monotonic()
        undisturbed = folder / "runs" / "undisturbed"
        ended = run(folder, undisturbed)
        if ended.code:
            raise SystemExit(f"the undisturbed run failed\n{ended.shown}")
        self._seconds = time.monotonic() - begun
        self._wanted, self._rows = result(undisturbed), num_scored(undisturbed)

    def drive(self) -> None:
        """Rounds until there were enough kills."""
        while self.kills < self._wanted_kills:
            self.rounds += 1
            self._round()

    def _round(self) -> None:
        output = self._folder / "runs" / f"round-{self.rounds}"
        with_ray = self._random.random() < self._ray_share
        overrides = RAY if with_ray else IN_PROCESS
        harm = self._random.randint(1, 6)
        for _ in range(harm):
            process = start(self._folder, output, overrides)
            delay = self._random.uniform(0.5, self._seconds * (2 if with_ray else 0.7))
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                self._harm(process, with_ray=with_ray)
            code = finish(process, self._folder, output).code
            kill_session(process.pid)
            if code == 0:
                break
            print(f"  {self.kills:4d} kills; {output.name} ended with {code} after {delay:.1f} s", flush=True)
        last = run(self._folder, output, overrides)
        if last.code or result(output) != self._wanted or num_scored(output) != self._rows:
            raise SystemExit(f"{output} differs from an undisturbed run, or failed ({last.code})\n{last.shown}")
        print(f"round {self.rounds}: {'Ray' if with_ray else 'in process'}, same result", flush=True)
        shutil.rmtree(output)

    def _harm(self, process: "subprocess.Popen[str]", *, with_ray: bool) -> None:
        kind = self._random.choice(_KINDS) if with_ray else "driver"
        number = self._random.choice(_SIGNALS)
        others = [(pid, line) for pid, line in session_processes(process.pid) if pid != process.pid]
        workers = [pid for pid, line in others if line.startswith("ray::")]
        raylets = [pid for pid, line in others if "/raylet/raylet" in line.split(" ", 1)[0]]
        victims = {"worker": workers[:1], "raylet": raylets, "all workers": workers}.get(kind) or [process.pid]
        if victims != [process.pid]:
            number = signal.SIGKILL
        for victim in victims:
            try:
                kill(victim, number)
            except ProcessLookupError:
                continue
        self.kills += 1


def main() -> None:
    """Parse, print the seed, drive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--ray", type=float, default=0.2, help="share of rounds with Ray")
    wishes = parser.parse_args()
    print(f"chaos: {wishes.kills} kills, --seed {wishes.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="gradsieve-chaos-"))
    chaos = Chaos(folder, wishes.seed, wishes.kills, wishes.ray)
    chaos.drive()
    print(f"{chaos.kills} kills in {chaos.rounds} rounds, every result the same", flush=True)
    shutil.rmtree(folder)  # kept where anything differed


if __name__ == "__main__":
    main()
