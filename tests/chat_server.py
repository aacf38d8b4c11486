"""An endpoint on this machine that speaks the chat protocol, with answers made by the test."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def chat_server(answer):
    """URL of a server that replies `answer(request)` to every request, and the requests it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append(request | {"path": self.path, "authorization": self.headers["Authorization"]})
            if self.path != "/v1/chat/completions":
                self.send_error(404)
                return
            try:
                message = {"role": "assistant", "content": answer(request)}
            except PermissionError as error:
                self.send_response(403)
                self.end_headers()
                self.wfile.write(str(error).encode())
                return
            reply = {
                "id": "1", "object": "chat.completion", "created": 0, "model": request["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def marked_tokens(part):
    """Tokens between « and » of some passages."""
    return [line.partition("«")[2].partition("»")[0] for line in part.splitlines() if "«" in line]


def same_token_judge(request):
    """Sure where the marked token is that of an example."""
    fires, _, judged = request["messages"][1]["content"].split("\n\n")
    known = set(marked_tokens(fires))
    return json.dumps([10 if token in known else 0 for token in marked_tokens(judged)])
