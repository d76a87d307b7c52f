"""What torchrun tells each of the processes that it starts, in environment variables."""

import os
from dataclasses import dataclass

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """The number of this process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1

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
    if not all(os.environ.get(name) for name in (*_NUMBERS, *_ADDRESS)):
        return Launch()
    launch = Launch(*(int(os.environ[name]) for name in _NUMBERS))
    return launch if launch.size > 1 else Launch()
