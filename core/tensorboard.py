"""TensorBoard's event files, written immediately: the usual writers keep a queue, which is lost on a kill."""

import os
import socket
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

PREFIX = "events.out.tfevents."


class Events:
    """One event file in a folder; each start of a run creates a new one.

    Args:
        folder: an existing folder.
        step: iterations done; a running TensorBoard discards what it has read of later ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # TensorBoard reads the files in name order, which must be right even if the clock was set back.
        newest = max((int(p.name.removeprefix(PREFIX).split(".")[0]) for p in event_files(folder)), default=0)
        self.path = folder / f"{PREFIX}{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}"
        self._writer = RecordWriter(str(self.path))
        self._write(Event(file_version="brain.Event:2"))
        if step:
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add(self, summary: Summary, step: int) -> None:
        """Write a summary of a number, a picture or a text, made by tensorboardX.summary."""
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Flush everything so far to disk."""
        self._writer.flush()
        # Older versions of the writer leave the data in the OS cache.
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def event_files(folder: Path) -> list[Path]:
    """The event files in a folder that this class wrote."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).split(".")[0].isdigit())
