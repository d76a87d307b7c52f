"""A module with the part of wandb's API that Comity uses; it keeps what it is sent."""

from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


class FakeRun:
    """One call of `wandb.init`."""

    def __init__(self, module: "FakeWandb", **arguments: Any):
        self.module = module
        self.arguments = arguments
        self.id: str = arguments["id"]
        self.offline = False
        self.url = f"https://example.org/{self.id}"
        self.dir = "unused"
        self.rows: list[dict[str, float]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str) -> None:
        self.step_metric = (name, step_metric)

    def log(self, row: dict[str, float]) -> None:
        self.module.fail("log", when=len(self.rows) == 2)
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.module.fail("finish")
        self.exit_code = exit_code


class FakeWandb(ModuleType):
    """The module. The function called `failing` raises `error`."""

    failing: str | None = None
    error: BaseException = OSError("no space left on device\nsecond line")
    logged_in = True

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None, origin="fake")
        self.runs: list[FakeRun] = []

    def fail(self, function: str, when: bool = True) -> None:
        if function == self.failing and when:
            raise self.error

    def setup(self) -> SimpleNamespace:
        return SimpleNamespace(settings=SimpleNamespace(mode="online"))

    def login(self, prompt: bool, verify: bool) -> bool:
        assert (prompt, verify) == (
            False,
            False,
        )  # it may neither ask the user nor wait for a server
        return self.logged_in

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **arguments: Any) -> FakeRun:
        self.fail("init")
        self.runs.append(FakeRun(self, **arguments))
        return self.runs[-1]
