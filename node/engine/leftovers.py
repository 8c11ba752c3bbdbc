"""Engines that a killed daemon left behind: which process group was ours, and its end at the next start.

The launcher ends its group when the daemon dies. It can be killed too; then vLLM's processes go on, hold the GPU and
answer nobody. So the group of each engine is written to a file, with what tells it from a stranger's: the boot, when
its leader was started, and the program. A number alone is not enough, for numbers are used again.
"""

import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from pydantic_core import from_json, to_json

log = structlog.get_logger(__name__)

RECORD_BYTES_MAX = 4096
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
END_SECONDS_MAX = 5.0
"""How long processes that were killed may take to go: freeing a GPU's memory takes a second or two."""
END_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A process group that a daemon started."""

    group: int
    """Its number: the pid of its leader, which leads its session too."""
    started_ticks: int
    """When the leader was started, in clock ticks since the boot."""
    boot_id: str
    program: str
    """What the engine's Python resolves to; members that are left without their leader run it."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One line of /proc/PID/stat, as far as it matters here."""

    state: str
    group: int
    session: int
    started_ticks: int


def record_group(file: Path, group: int, program: Path) -> None:
    """Write down the group of an engine that was just started."""
    status = read_process(group)
    if status is None:
        return  # it is gone already
    record = GroupRecord(group, status.started_ticks, _boot_id(), str(program.resolve()))
    temporary = file.with_suffix(".new")
    temporary.write_bytes(to_json(asdict(record)))
    temporary.replace(file)


def end_leftover(file: Path) -> bool:
    """Kill the group that `file` names, if it still runs and is ours; return whether there was one. Blocks."""
    record = read_record(file)
    if record is None:
        file.unlink(missing_ok=True)
        return False
    found = is_running(record)
    if found:
        log.warning("an engine of an earlier daemon still runs; it is ended", group=record.group)
        with suppress(ProcessLookupError):  # it ended by itself just now
            os.killpg(record.group, signal.SIGKILL)
        deadline = time.monotonic() + END_SECONDS_MAX
        while is_running(record) and time.monotonic() < deadline:
            time.sleep(END_POLL_SECONDS)
    file.unlink(missing_ok=True)
    return found


def is_running(record: GroupRecord) -> bool:
    """Whether any process of the group that `record` describes is left, and no stranger has its number now."""
    if record.boot_id != _boot_id():
        return False
    leader = read_process(record.group)
    if leader is not None and leader.started_ticks != record.started_ticks:
        return False  # the number was given away again, so the group had ended
    return any(_is_member(int(entry.name), record) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def members_of(group: int) -> list[int]:
    """Return the processes of a group that are not dead. Reads all of /proc."""
    everybody = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    found = ((pid, read_process(pid)) for pid in everybody)
    return [pid for pid, status in found if status is not None and status.group == group and status.state != "Z"]


def read_process(pid: int) -> ProcessStatus | None:
    """Return how a process is, or None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name, in brackets, may hold anything
    return ProcessStatus(words[0], int(words[2]), int(words[3]), int(words[19]))


def _is_member(pid: int, record: GroupRecord) -> bool:
    status = read_process(pid)
    if status is None or status.state == "Z" or status.group != record.group or status.session != record.group:
        return False
    if status.started_ticks < record.started_ticks:
        return False
    if pid == record.group:
        return True  # the caller has compared its start
    leader = read_process(record.group)
    if leader is not None:
        return True
    try:
        return Path(f"/proc/{pid}/exe").resolve() == Path(record.program)
    except OSError:
        return False


def read_record(file: Path) -> GroupRecord | None:
    """Return what `record_group` wrote; None if there is nothing, or nothing whole."""
    try:
        if file.stat().st_size > RECORD_BYTES_MAX:
            return None
        return GroupRecord(**from_json(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # none, or one that was never finished


def _boot_id() -> str:
    try:
        return BOOT_ID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return ""
