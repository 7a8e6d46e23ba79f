"""Keeps compiled plans: found by what they were made of, never half written, verified when read.

A plan runs on one kind of GPU with one version of TensorRT, so an engine directory may gather
several. They lie beside what its manifest names, since they come and go.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from beicli.artifact.gpu import Flavor, HardwareCompatibility, Profile
from beicli.artifact.manifest import Precision
from beicli.errors import PlanError

# Raise it when `compiler.py` makes another plan of the same graph.
COMPILER_VERSION = 2
_KEY_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanIdentity:
    """All that a plan depends on.

    graph_sha256: of the graph's files, by name. version: of TensorRT, in full.
    gpu_name: of the GPU, where a plan is for one model of a compute capability; else None.
    """

    graph_sha256: tuple[tuple[str, str], ...]
    precision: Precision
    profiles: tuple[Profile, ...]
    flavor: Flavor
    version: str
    sm: int
    gpu_name: str | None
    hardware_compatibility: HardwareCompatibility
    compiler_version: int = COMPILER_VERSION

    @property
    def key(self) -> str:
        """The name of the plan: readable, and the same for the same content."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
        gpu = "" if self.gpu_name is None else f"-{_slug(self.gpu_name)}"
        return f"{self.flavor}-{self.version}-sm{self.sm}{gpu}-{digest}"


@dataclass(frozen=True, slots=True)
class PlanStore:
    """A directory of plans, shared by all processes that serve from it.

    also_read: a directory that may hold plans but is not written to; None for no other.
    """

    directory: Path
    also_read: Path | None = None

    def has(self, identity: PlanIdentity) -> bool:
        """Whether there is a plan, sound or not."""
        directories = (self.directory, self.also_read)
        return any(
            directory is not None and (directory / f"{identity.key}.plan").exists()
            for directory in directories
        )

    def get(self, identity: PlanIdentity) -> bytes | None:
        """Return the plan; None if there is none, or if it is not what was stored."""
        for directory in (self.directory, self.also_read):
            plan = None if directory is None else _read_plan(directory, identity.key)
            if plan is not None:
                return plan
        return None

    def get_or_compile(
        self, identity: PlanIdentity, compile_plan: Callable[[], bytes], *, may_compile: bool = True
    ) -> bytes:
        """Return the plan; compile it once, whoever else asks for it at the same time.

        Raises PlanError if there is none and none may be compiled.
        """
        plan = self.get(identity)
        if plan is not None:
            return plan
        if not may_compile:
            raise PlanError(
                f"there is no plan for sm{identity.sm} with {identity.flavor} {identity.version} "
                f"in `{self.directory}`, and `--no-compile` forbids making one",
                hint=_hint(identity),
            )
        with self._lock(identity):
            # Another process may have been quicker.
            plan = self.get(identity)
            if plan is None:
                plan = compile_plan()
                self._put(identity, plan)
        return plan

    def recompile(
        self, identity: PlanIdentity, refused: bytes, compile_plan: Callable[[], bytes]
    ) -> bytes:
        """Put a plan that does not load out of the way, and compile it anew.

        refused: the plan. It is kept as a `.bad` file for whoever wants to know why; if another
        process has replaced it meanwhile, that one is returned.
        """
        with self._lock(identity):
            plan = self.get(identity)
            if plan is not None and plan != refused:
                return plan
            # One is kept: a supervisor that starts a server again and again must not fill the disk.
            with contextlib.suppress(FileNotFoundError):
                path = self._plan_path(identity)
                path.replace(path.with_suffix(".bad"))
            self._record_path(identity).unlink(missing_ok=True)
            plan = compile_plan()
            self._put(identity, plan)
        return plan

    def timing_cache(self, identity: PlanIdentity) -> Path:
        """Return where TensorRT remembers how fast kernels were, of this version and GPU."""
        gpu = "" if identity.gpu_name is None else f"-{_slug(identity.gpu_name)}"
        return self.directory / f"{identity.flavor}-{identity.version}-sm{identity.sm}{gpu}.timing"

    def _put(self, identity: PlanIdentity, plan: bytes) -> None:
        record = {
            "sha256": _sha256(plan),
            "size_bytes": len(plan),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": asdict(identity),
        }
        # The record last: a plan without one counts as none.
        self._write(self._plan_path(identity), plan)
        text = json.dumps(record, indent=2) + "\n"
        self._write(self._record_path(identity), text.encode())

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file that others see whole or not at all."""
        with tempfile.NamedTemporaryFile(dir=self.directory, prefix=".new-", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                # As readable as the rest of an engine directory.
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    @contextmanager
    def _lock(self, identity: PlanIdentity) -> Iterator[None]:
        """Wait until no other process compiles this plan; a process that dies lets go of it."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / f".{identity.key}.lock").open("w")
        except OSError as error:
            raise PlanError(
                f"`{self.directory}` cannot be written: {error.strerror}",
                hint="name another directory with `--plan-cache`, or " + _hint(identity),
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _plan_path(self, identity: PlanIdentity) -> Path:
        return self.directory / f"{identity.key}.plan"

    def _record_path(self, identity: PlanIdentity) -> Path:
        return self.directory / f"{identity.key}.json"


def unsound_plans(directory: Path) -> list[str]:
    """Return the names of plans that are not what their records say, sorted."""
    return sorted(
        path.name for path in directory.glob("*.plan") if _read_plan(directory, path.stem) is None
    )


def _read_plan(directory: Path, key: str) -> bytes | None:
    try:
        plan = (directory / f"{key}.plan").read_bytes()
        record = json.loads((directory / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_sound = isinstance(record, dict) and record.get("sha256") == _sha256(plan)
    return plan if is_sound else None


def _hint(identity: PlanIdentity) -> str:
    return (
        f"serve it once without `--no-compile` on a GPU of sm{identity.sm}, and copy the directory "
        "with the plan"
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
