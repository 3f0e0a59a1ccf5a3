"""Processes that take jobs one at a time, end with the process that started them, and are replaced when they die."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ..utils.errors import UserError
from ..utils.processes import portable

TRIES = 2  # of a job whose process dies
TICK, RESULT, ERROR = "tick", "result", "error"


class _Worker:
    """A process and the job that it has at present."""

    def __init__(self, context: Any, run: Callable, start: Callable[[], None]):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, run, start), daemon=False)
        self.process.start()
        theirs.close()
        self.job: Any = None

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def in_workers(
    number: int,
    jobs: Sequence[Any],
    run: Callable[[Any, Callable[[], None]], Any],
    start: Callable[[], None],
    on_tick: Callable[[], None],
    named: Callable[[Any], str] = str,
    method: str = "spawn",
) -> Iterator[Any]:
    """Run jobs in processes of their own, and yield their results as they come.

    Args:
        number: of processes at a time.
        jobs: what is to be done.
        run: called in a process with a job and a function, which calls ``on_tick`` here.
        start: called once in each process.
        on_tick: called here.
        named: says what a job is called.
        method: of ``multiprocessing`` to start processes.

    Raises:
        UserError: a job whose process died twice, such as by the kernel for lack of memory.
        Exception: whatever ``run`` raised, with the traceback there as a note.
    """
    context, waiting = multiprocessing.get_context(method), deque((job, TRIES) for job in jobs)
    workers: list[_Worker] = []
    try:
        while True:
            while len(workers) < number and len(workers) < len(waiting) + sum(w.job is not None for w in workers):
                workers.append(_Worker(context, run, start))
            for worker in workers:
                if worker.job is None and waiting:
                    worker.job = waiting.popleft()
                    with suppress(OSError):  # it is dead, which is seen below
                        worker.connection.send(worker.job[0])
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    worker.stop()
                    waiting.appendleft(_once_more(worker, named))
                    continue
                if kind == TICK:
                    on_tick()
                    continue
                worker.job = None
                if kind == ERROR:
                    raise content
                yield content
    finally:
        for worker in workers:
            worker.stop()


def _once_more(worker: _Worker, named: Callable[[Any], str]) -> tuple[Any, int]:
    job, tries = worker.job
    if tries > 1:
        return job, tries - 1
    code = worker.process.exitcode
    reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    raise UserError(
        f"the process of {named(job)} {reason}, as did one before: most often the memory is too small, so pass fewer "
        "--workers; the same command goes on with what is finished"
    )


def _serve(connection: Connection, run: Callable, start: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C: it ends this process
    _end_with_parent()
    start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            answer = RESULT, run(job, lambda: connection.send((TICK, None)))
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = ERROR, portable(error)
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process at once when its parent ends, whatever ended that."""
    sentinel = multiprocessing.parent_process().sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
