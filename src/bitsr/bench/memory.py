"""Peak memory of a variant, in a process that runs nothing else: ``python -m bitsr.bench.memory JOB``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bitsr.bench.job import Job, load
from bitsr.errors import BitsrError

RUNS = 2


def peak_rss_mib(job: Job) -> float:
    """MiB at the peak of a fresh process that loads ``job`` and runs it on one picture, interpreter and all.

    Raises:
        BitsrError: the process failed; the text is the last line that it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bitsr.bench.memory", job.to_json()], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(job.threads)},
    )  # fmt: skip
    if done.returncode:
        raise BitsrError(f"its own process failed: {(done.stderr.strip().splitlines() or ['no word'])[-1][:300]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_rss_mib"])


def own_peak_mib() -> float:
    """This process's peak so far.  Linux's own number is read, since `getrusage` counts what was there before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    job = Job.from_json(sys.argv[1])
    shape = (1, job.channels, job.height, job.width) if job.planes else (job.height, job.width, job.channels)
    run = load(job)
    picture = np.random.default_rng(0).random(shape, np.float32)
    for _ in range(RUNS):
        run(picture)
    print(json.dumps({"peak_rss_mib": own_peak_mib()}))


if __name__ == "__main__":
    main()
