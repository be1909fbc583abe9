"""Hold the models in a warm process and compute for the web app: ``python -m kvlab.worker``.

It reads requests as JSON lines on stdin and answers as JSON lines on stdout:
    {"id": 1, "call": "geometry", "args": {"name": "demo/teacher"}}
    {"id": 1, "ok": true, "result": ...}   or   {"id": 1, "ok": false, "error": KvlabError.to_dict()}
One thread computes ``analyse`` requests (analyses and functional tests) one at a time; another answers questions in
the meantime; ``ping`` and ``cancel`` are answered at once. The end of stdin means that the web server is gone: the
worker ends too.
"""

import functools
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kvlab.errors import KvlabError
from kvlab.language import Message
from kvlab.runs.job import Analyse, Job, explain, mark, server_gone
from kvlab.shapes import Progress

DEVICE_LOST = 70  # exit code: an error left the GPU unusable for this process; the next worker can use it
LAST_WORDS = 2.0  # seconds for a computation to notice the end of the web server

Handlers = dict[str, Callable[..., Any]]

log = logging.getLogger("kvlab.worker")


@dataclass(eq=False)
class Request:
    """One line of stdin; ``job`` when it asks for an analysis."""

    id: int
    call: str
    args: dict[str, Any]
    job: Job | None = None


class Lane:
    """A queue for one thread, which knows the request in progress."""

    def __init__(self):
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None
        self._changed = threading.Condition()

    def put(self, request: Request) -> None:
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def take(self) -> Request:
        """Wait for the next request and return it; it is the current one until the next call."""
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._waiting)
            self._current = self._waiting.popleft()
            return self._current

    def remove(self, wanted: Callable[[Request], bool]) -> tuple[Request | None, list[Request]]:
        """Remove wanted requests from the queue; return the current one, if wanted, and those removed."""
        with self._changed:
            removed = [request for request in self._waiting if wanted(request)]
            self._waiting = deque(request for request in self._waiting if not wanted(request))
            current = self._current
            return current if current is not None and wanted(current) else None, removed


class Service:
    """The state of one serve call: two lanes and the output."""

    def __init__(self, stdout: BinaryIO, handlers: Handlers, analyse: Analyse, warm: Callable[[], None]):
        self._stdout, self._speaking = stdout, threading.Lock()
        self._handlers, self._analyse, self._warm = handlers, analyse, warm
        self._at_once: Handlers = {"ping": self._ping, "cancel": self._cancel}
        self._analyses, self._questions = Lane(), Lane()
        self._ready = threading.Event()
        for work in (self._compute, self._answer_questions):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def accept(self, line: bytes) -> None:
        """Answer one line of stdin, or put it into the lane of its kind."""
        try:
            fields = json.loads(line)
            request = Request(fields["id"], fields["call"], dict(fields.get("args") or {}))
            if request.call == "analyse":
                request.job = Job(Path(request.args["folder"]))
        except (ValueError, KeyError, TypeError) as error:
            self._reply(None, ok=False, error=explain(error, Message("a JSON object with id, call and args")))
            return
        if request.call in self._at_once:
            self._answer(request, self._at_once)
        elif request.job is not None:
            self._analyses.put(request)
        else:
            self._questions.put(request)

    def abandon(self) -> None:
        """End the current analysis, or at least its record, and those in the queue: the web server is gone."""
        current, removed = self._analyses.remove(lambda _: True)
        for request in removed:
            mark(request.job.folder, "failed", server_gone())
        if current is not None:
            current.job.stop(server_gone=True)
            if not current.job.ended.wait(LAST_WORDS):
                current.job.abandon()

    def _compute(self) -> None:
        try:
            self._warm()
        except BaseException:  # the requests that need these imports will fail with the same message
            log.exception("the imports failed")
        self._ready.set()
        while True:
            request = self._analyses.take()
            error = request.job.perform(self._analyse)
            answer = {"ok": False, "error": error} if error else {"ok": True, "result": None}
            self._reply(request.id, **answer)
            request.job.ended.set()
            if error is not None and error["kind"] == "device-error":
                os._exit(DEVICE_LOST)

    def _answer_questions(self) -> None:
        self._ready.wait()  # two threads importing torch at once can leave half a module behind
        while True:
            self._answer(self._questions.take(), self._handlers)

    def _answer(self, request: Request, handlers: Handlers) -> None:
        try:
            if request.call not in handlers:
                known = [*self._at_once, "analyse", *self._handlers]
                raise KvlabError(
                    "call-unknown",
                    expected=Message("one of: {names}", names=", ".join(known)),
                    found=repr(request.call)[:100],
                    remedy=Message("the app and its worker may be of different versions: restart the app"),
                )
            self._reply(request.id, ok=True, result=handlers[request.call](**request.args))
        except BaseException as error:  # also a library's sys.exit: this thread must live on
            if not isinstance(error, KvlabError):
                log.exception("request %r failed", request.call)
            self._reply(request.id, ok=False, error=explain(error, Message("{call} to be answered", call=request.call)))

    def _reply(self, request_id: int | None, **answer: Any) -> None:
        line = json.dumps({"id": request_id, **answer}, default=_plain).encode() + b"\n"
        try:
            with self._speaking:
                self._stdout.write(line)
                self._stdout.flush()
        except OSError:  # the web server is gone; stdin will end too
            log.warning("the answer to request %s could not be delivered", request_id)

    def _ping(self) -> dict[str, Any]:
        version = getattr(sys.modules.get("torch"), "__version__", None)
        return {"ready": self._ready.is_set(), "pid": os.getpid(), "torch": version and str(version)}

    def _cancel(self, run: str) -> str:
        """Cancel a run and return where it was: "running" (asked to stop), "queued" (removed) or "nowhere"."""
        current, removed = self._analyses.remove(lambda request: request.args["folder"] == run)
        for request in removed:
            mark(request.job.folder, "cancelled")
            self._reply(request.id, ok=True, result=None)
        if current is not None:
            current.job.stop()
            return "running"
        return "queued" if removed else "nowhere"


def serve(
    stdin: BinaryIO, stdout: BinaryIO, handlers: Handlers, analyse: Analyse, warm: Callable[[], None] = lambda: None
) -> None:
    """Answer requests until stdin ends. The caller then ends the process, because threads may still be working.

    ``handlers``: the questions by name, called with a request's args; they return JSON or an object with to_dict.
    ``warm``: the slow imports, done before the first request; ping and cancel are already answered meanwhile.
    """
    service = Service(stdout, handlers, analyse, warm)
    for line in stdin:
        service.accept(line)
    service.abandon()


def claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return stdin and stdout for the protocol alone; from now on prints go to stderr, and reads find nothing."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return stdin, stdout


def run(handlers: Handlers, analyse: Analyse, warm: Callable[[], None] = lambda: None) -> None:
    """Serve this process's own pipes, then end it at once, even if its threads and libraries still work."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    code = 1
    try:
        serve(*claim_pipes(), handlers, analyse, warm)
        code = 0
    except BaseException:
        log.exception("the worker failed")
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve with the real computations. Import torch only inside, after serving stdin has begun."""

    @functools.cache
    def held():
        from kvlab.models.loading import ModelCache

        return ModelCache(max_models=3)

    def warm() -> None:
        import kvlab.align.run  # noqa: F401

        held()  # create it before two threads can ask for it

    def analyse(folder: Path, progress: Progress) -> None:
        from kvlab.align import run as analysis
        from kvlab.inject import certify
        from kvlab.inject import run as functional
        from kvlab.runs import store

        others = {"injection": functional.test, "certificate": certify.make}
        others.get(store.read_status(folder).get("kind"), analysis.analyse)(folder, progress, held())

    def geometry(name: str):
        from kvlab.models import loading

        return loading.geometry(name)

    def forecast(teacher: str, student: str) -> dict[str, Any]:
        """Forecast the memory of an analysis of the samples, in the memory that takes most of it."""
        from kvlab.host.memory import device_memory, dtype_name
        from kvlab.request import analysis_memory as of_analysis
        from kvlab.request import prompts
        from kvlab.request.align import AnalysisRequest

        request = AnalysisRequest(teacher=teacher, student=student)
        size = of_analysis.size_of(request, prompts.samples(), [geometry(teacher)], geometry(student))
        memory, host = device_memory(), device_memory("cpu")
        needs = of_analysis.places(of_analysis.analysis_memory(**size, device=memory.device), memory, host)
        place, parts = max(needs, key=lambda need: sum(part.bytes for part in need[1]) / max(need[0].free, 1))
        named = [{"name": of_analysis.name_of(part), "bytes": part.bytes} for part in parts]
        return {**asdict(place), "dtype": dtype_name("auto", memory.device), "parts": named}

    def tokens(names: list[str], texts: list[str]) -> dict[str, int]:
        from kvlab.models import loading

        tokenizers = {name: loading.reader(name).tokenizer for name in names}
        return {name: sum(map(len, tokenizer(texts).input_ids)) for name, tokenizer in tokenizers.items()}

    def doctor():
        from kvlab import doctor
        from kvlab.runs import store

        return doctor.examine(runs=store.runs_root())

    def checks() -> list:
        from kvlab.align import checks

        return list(checks.run_checks())

    def loaded() -> list[str]:
        return held().names()

    def release() -> None:
        held().release()

    questions = (geometry, forecast, tokens, doctor, checks, loaded, release)
    run({question.__name__: question for question in questions}, analyse, warm)


def _plain(value: Any) -> Any:
    """Convert objects that json.dumps does not know."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} in an answer")


if __name__ == "__main__":
    main()
