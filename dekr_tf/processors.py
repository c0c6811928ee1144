"""How many processors this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: By version of Linux control groups: their folder, and the files that hold quota and period.
_CGROUPS = {
    1: ("sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    2: ("sys/fs/cgroup", ("cpu.max",)),
}


def available_processors(root: Path = Path("/")) -> int:
    """The number of threads that can run at once here, at least 1.

    It is the number of the machine's processors, unless the process is bound to some of them (`taskset`) or a container
    limits its share (`docker run --cpus`, a CPU limit in Kubernetes). A fraction of a processor counts as one.

    Args:
        root: folder with the system's `proc` and `sys`.
    """
    if hasattr(os, "process_cpu_count"):
        # Python 3.13 and newer; it also heeds PYTHON_CPU_COUNT.
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return max(1, math.ceil(min([count or 1, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The limits, in processors, that control groups set for this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # No Linux.
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder, files = _CGROUPS[1 if controllers else 2]
        # The limits of all parent groups apply as well. Inside a container, only the outermost may be readable.
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            try:
                texts = [(root / folder / each / file).read_text() for file in files]
                quota, period = map(int, " ".join(texts).split())
            except (OSError, ValueError):  # The file is missing or says `max`: no limit.
                continue
            if quota > 0:
                yield quota / period
