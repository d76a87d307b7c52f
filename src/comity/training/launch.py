"""What torchrun tells each of the processes that it starts, in environment variables."""

import os
from dataclasses import dataclass

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """The number of this process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run and shows its progress."""
        return self.rank == 0

    @property
    def reports_errors(self) -> bool:
        """Whether this process prints errors: one does on each machine."""
        return self.local_rank == 0


def launched() -> Launch:
    """How this process was started; one process of one without torchrun."""
    try:
        rank, size, local_rank, _, _ = (os.environ[name] for name in _VARIABLES)
        launch = Launch(int(rank), int(size), int(local_rank))
    except (KeyError, ValueError):
        return Launch()
    return launch if launch.size > 1 else Launch()
