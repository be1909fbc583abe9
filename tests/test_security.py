"""What an administrator asks of the real server: the token everywhere, no way out of runs/, no foreign code."""

import ast
import http.client
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from kvlab.errors import KvlabError, ModelError
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.runs import store
from kvlab.web import server
from kvlab.web.access.access_token import SECRET, Keys
from tests import app as real
from tests.catalogue import called
from tests.tiny import tiny_model

pytestmark = pytest.mark.xdist_group("security")
STATIC = re.compile(r'(?:src|href)="\./([^"]+)"')
ROUTES = """
import app
def paths(routes, above=""):
    for route in routes:
        path = above + getattr(route, "path", "")
        yield path
        yield from paths(getattr(route, "routes", None) or [], path)
print("\\n".join(sorted(set(paths(app.app._build_starlette_app().routes)))))
"""
HOSTILE_IDS = (
    "../../etc",
    "..",
    ".",
    "/etc",
    "20260101T000000.000Z-x-abcd/../../etc",
    "..%2f..%2fetc",
    "20260101T000000.000Z-x-abcd\x00",
    "20260101T000000.000Z-x-abcd\n",
    "..\\..\\etc",
    "<script>alert(1)</script>",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with real.running_app(tmp_path_factory.mktemp("runs"), torch=False) as running:
        yield running


@pytest.fixture(scope="module")
def routes():
    """Every path that the app answers, as its own router has them."""
    done = subprocess.run([sys.executable, "-c", ROUTES], cwd=real.PROJECT, capture_output=True, text=True, check=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("/")]
    assert len(found) > 10 and any(path.endswith("/stream") for path in found)
    return [re.sub(r"\{[^}]*\}", "x", path) for path in found]


def ask(app, path, method="GET", **headers):
    """The path as it stands, dots and all -> status, headers, body."""
    host, port = app.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def with_token(app):
    return {"Authorization": f"Bearer {app.token}"}


def stream(app, path="/_stcore/stream", **headers):
    """The status of a WebSocket's handshake."""
    try:
        with connect(app.url.replace("http", "ws") + path, additional_headers=headers, proxy=None, open_timeout=120):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def static_files(app):
    page = ask(app, "/", **with_token(app))[2].decode()
    found = [f"/{name}" for name in STATIC.findall(page)]
    assert any(name.endswith(".js") for name in found) and any(name.endswith(".css") for name in found)
    return found


def test_no_route_answers_without_the_token(app, routes):
    for path in (*routes, "/", "/alignment", "/runs?run=sample", "/_stcore/health", "/nowhere", "/_stcore/stream"):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            status, headers, body = ask(app, path, method)
            assert status == 401, (method, path)
            assert method == "HEAD" or b"access token" in body
            assert "access-control-allow-origin" not in headers
    assert ask(app, "/_stcore/health", **with_token(app))[0] == 200
    assert ask(app, "/alignment", **with_token(app))[0] == 200


def test_no_static_file_answers_without_the_token(app):
    for path in static_files(app):
        assert ask(app, path)[0] == 401, path
        assert ask(app, path, **with_token(app))[0] == 200, path


def test_no_websocket_opens_without_the_token_or_for_another_site(app):
    assert stream(app) == 403
    assert stream(app, f"/_stcore/stream?token={app.token}") == 403  # an address is logged
    assert stream(app, Cookie=f"kvlab-{app.url.rpartition(':')[2]}={app.token}") == 403
    assert stream(app, Authorization="Bearer wrong") == 403
    assert stream(app, **with_token(app)) == 101
    assert stream(app, Origin=app.url, **with_token(app)) == 101
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert stream(app, Origin=origin, **with_token(app)) == 403


def test_the_printed_address_lets_a_browser_in(app):
    status, headers, _ = ask(app, f"/runs?token={app.token}&runs=a")
    assert (status, headers["location"]) == (303, "/runs?runs=a")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and app.token not in cookie
    known = cookie.split(";")[0]
    secret = app.runs / SECRET
    assert secret.stat().st_mode & 0o777 == 0o600
    assert Keys(app.token, secret.read_bytes()).known(known.partition("=")[2])  # so the next server knows it, too
    assert ask(app, "/_stcore/health", Cookie=known)[0] == 200
    assert stream(app, Origin=app.url, Cookie=known) == 101
    assert ask(app, "/_stcore/health", Cookie=known, Host="evil.example")[0] == 403


def test_whatever_server_and_worker_write_is_this_accounts_alone(app):
    for process in (app.process, app.worker()):
        assert "Umask:\t0077\n" in Path(f"/proc/{process.pid}/status").read_text()
    assert app.runs.joinpath("worker.log").stat().st_mode & 0o777 == 0o600


def test_the_token_is_in_the_log_once_and_first(app):
    ask(app, f"/?token={app.token}")
    ask(app, f"/%00?token={app.token}")
    stream(app, f"/_stcore/stream?token={app.token}")
    stream(app, **with_token(app))
    port = app.url.rpartition(":")[2]
    log = (app.runs / "server.log").read_text()
    first, second = log.splitlines()[:2]
    assert first == f"kvlab: {app.url}/?token={app.token}"
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in second
    assert log.count(app.token) == 1


@pytest.mark.parametrize(("characters", "warned"), [(15, True), (16, False)])
def test_a_short_token_of_ones_own_is_warned_of(monkeypatch, characters, warned):
    monkeypatch.setattr(server, "entrance", lambda: Keys("x" * characters))
    assert ("can be guessed" in server.startup_text()) == warned


def test_a_server_beyond_this_machine_is_not_started_without_a_token():
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address", "0.0.0.0", "--server.port", "0"]
    environment = {**real.os.environ, "KVLAB_TOKEN": "off"}
    done = subprocess.run(
        command, cwd=real.PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "Expected an access token" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/static/../../../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static//etc/passwd",
        "/static/..%5c..%5cetc%5cpasswd",
        "/app/static/../../app.py",
        "/media/../../etc/passwd",
        "/media/..%2f..%2fetc%2fpasswd",
        "/component/x/../../../../etc/passwd",
        "/_stcore/bidi-components/x/..%2f..%2f..%2fetc/passwd",
        "/_stcore/upload_file/../../etc/passwd",
        "/pyproject.toml",
        "/app.py",
        "/.streamlit/config.toml",
        "/runs/server.log",
        "//etc/passwd",
    ],
)
def test_no_address_reads_a_file_of_this_machine(app, path):
    """Pages are one and the same document at any address: anything else must not come."""
    page = ask(app, "/", **with_token(app))[2]
    status, _, body = ask(app, path, **with_token(app))
    assert b"root:" not in body and b"[server]" not in body and b"asyncio" not in body
    assert status >= 400 or body in (page, b""), (status, body[:200])


def test_an_upload_without_a_session_is_refused_whatever_it_is_called(app):
    for path in ("/_stcore/upload_file/x/y", "/_stcore/upload_file/..%2f..%2fx/..%2fy"):
        assert ask(app, path, "PUT", **with_token(app))[0] >= 400


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
def test_no_run_id_leaves_the_runs_folder(tmp_path, run_id):
    root = tmp_path / "runs"
    root.mkdir()
    with pytest.raises(KvlabError) as caught:
        store.find(root, run_id)
    assert caught.value.kind == "run-id-invalid"


def test_a_link_in_the_runs_folder_is_not_followed(tmp_path):
    root, secret = tmp_path / "runs", tmp_path / "secret"
    root.mkdir()
    secret.mkdir()
    (root / "20260101T000000.000Z-x-abcd").symlink_to(secret)
    with pytest.raises(KvlabError):
        store.find(root, "20260101T000000.000Z-x-abcd")


@pytest.mark.page
@pytest.mark.parametrize("page", ["alignment", "validation", "runs"])
def test_a_page_opened_with_a_hostile_id_says_so(page, worker_of_pages):
    for run_id in ("../../../../etc", "<script>alert(1)</script>"):
        app = AppTest.from_file(str(real.PROJECT / "kvlab" / "web" / "script.py"), default_timeout=60)
        app.query_params["run"] = app.query_params["runs"] = run_id
        app.switch_page(str(real.PROJECT / "pages" / f"{page}.py")).run()
        assert not app.exception
        if page != "runs":  # which leaves out of its selection what is no run
            assert any(error.value.startswith("**Expected** a run id") for error in app.error)
        assert "root:" not in "".join(element.value for element in app.markdown)


@pytest.mark.parametrize(
    "name", ["../../x.txt", "/etc/passwd", "..\\..\\x.csv", "a/../../b.jsonl", "\x00.txt", "..", "<img src=x>.txt"]
)
def test_the_name_of_an_upload_is_a_name_only(name):
    safe = prompts.safe_name(name)
    assert not set(safe) & set('/\\\x00<>"') and safe not in ("", ".", "..")


@pytest.mark.parametrize("name", ["run.py", "x.pkl", "x.bin", "x.html", "x.txt.exe", "x.svg", "txt"])
def test_an_upload_of_another_type_is_refused(name):
    with pytest.raises(KvlabError) as caught:
        prompts.read_upload(name, b"hello")
    assert caught.value.kind == "prompts-unknown-extension"


def test_an_upload_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(KvlabError) as caught:
        prompts.read_upload("x.txt", b"a" * 101, limits=prompts.Limits(bytes=100))
    assert "101" in caught.value.found or "100" in caught.value.expected


class Payload:
    """A pickle that writes a file as soon as anybody reads it."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.model
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "shard"])
def test_a_pickle_posing_as_weights_is_refused_and_never_read(tmp_path, name):
    folder, ran = Path(tiny_model("llama", tmp_path / "model")), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    if name == "shard":
        name = "model-00001-of-00001.safetensors"
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / name).write_bytes(pickle.dumps(Payload(ran)))
    with pytest.raises(ModelError) as caught:
        load(str(folder), "cpu")
    assert caught.value.kind == ("model-no-safetensors" if name.endswith(".bin") else "model-broken")
    assert not ran.exists()
    pickle.loads((folder / name).read_bytes()).close()
    assert ran.exists()  # the payload works


@pytest.mark.model
@pytest.mark.parametrize("kind", ["brandnew", "llama"])
def test_code_in_a_model_repository_is_never_run(tmp_path, kind):
    """Of an architecture that only the code knows: refused. Of a known one: the library's own class is used."""
    folder, ran = Path(tiny_model("llama", tmp_path / "model")), tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass X: pass\n")
    mapped = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer"), "code.X")
    for file in ("config.json", "tokenizer_config.json"):
        fields = json.loads((folder / file).read_text()) | {"auto_map": mapped}
        if file == "config.json":
            fields["model_type"] = kind
        else:
            fields["auto_map"] = {"AutoTokenizer": [None, "code.X"]}
        (folder / file).write_text(json.dumps(fields))
    if kind == "brandnew":
        with pytest.raises(ModelError) as caught:
            load(str(folder), "cpu")
        assert caught.value.kind == "model-remote-code"
    else:
        assert type(load(str(folder), "cpu").model).__module__.startswith("transformers.")
    assert not ran.exists()


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node, called(node)


def test_no_page_writes_html_of_a_user():
    """Only constants are HTML, and figures, which escape names (test_boxes.py).

    Trust, shells, eval and pickles appear nowhere.
    """
    for path in sorted((real.PROJECT / "kvlab").rglob("*.py")):
        for node, name in calls(path):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            where = f"{path.name}:{node.lineno}"
            assert "unsafe_allow_html" not in keywords, where
            if "unsafe_allow_javascript" in keywords:  # the page's language for screen readers: two constants
                assert path.name == "language.py" and ast.unparse(node.args[0]).startswith("SPOKEN["), where
            for refused in ("trust_remote_code", "shell"):
                assert refused not in keywords or ast.unparse(keywords[refused]) == "False", where
            assert name not in ("eval", "exec", "os.system", "pickle.load", "pickle.loads", "torch.load"), where
            if name in ("st.html", "components.html", "st.components.v1.html"):
                written = ast.unparse(node.args[0])
                figure = path.name == "files.py" and written.startswith("boxes(")
                assert figure or re.fullmatch(r"[A-Z_]+(\[.*\])?", written), f"{where}: not a constant"
