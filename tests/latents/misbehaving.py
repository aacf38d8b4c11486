"""A chat endpoint on this machine that does not always behave."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Misbehaving:
    """What happened: requests, paths and keys in their order, and how many were under way at once at most."""

    def __init__(self):
        self.requests, self.paths, self.keys = [], [], []
        self.lock = threading.Lock()
        self.now = self.most = 0


@contextmanager
def misbehaving(answer, behaviour=lambda number, request: "well"):
    """URL of a server that gives `answer(request)`, or does what `behaviour(number, request)` says: a status ("429"),
    "slow", "bad json", "truncated", "closed" or "empty"; and what happened."""
    seen = Misbehaving()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with seen.lock:
                number = len(seen.requests)
                seen.requests.append(request)
                seen.paths.append(self.path)
                seen.keys.append(self.headers["Authorization"] or self.headers["x-api-key"])
                seen.now += 1
                seen.most = max(seen.most, seen.now)
            try:
                self.reply(request, behaviour(number, request))
            except OSError:
                pass
            finally:
                with seen.lock:
                    seen.now -= 1

        def reply(self, request, how):
            if how == "closed":
                self.connection.close()
                return
            if how.isdigit():
                self.send_response(int(how))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(b"not now")
                return
            if how == "slow":
                time.sleep(0.05)
            message = {"role": "assistant", "content": answer(request)}
            body = {"choices": [{"message": message}], "usage": {"prompt_tokens": 100, "completion_tokens": 7}}
            text = {"bad json": b"{oops", "empty": b""}.get(how, json.dumps(body).encode())
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2] if how == "truncated" else text)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(request):
    """What a question has in it, read as JSON."""
    return json.loads(request["messages"][1]["content"])


def answering(request):
    """Names a latent; says yes where the description is in a passage, in fuzzing where it is highlighted."""
    content = asked(request)
    if "description" not in content:
        return json.dumps(
            {"explanation": "fires on " + next(p["active"] for p in content["passages"][0] if isinstance(p, dict))}
        )
    word = content["description"].removeprefix("fires on ")
    said = []
    for passage in content["passages"]:
        marked = [piece["highlighted"] for piece in passage if isinstance(piece, dict)]
        said.append(int(any(word in piece for piece in marked or passage)))
    return f"Here you are: {said}"
