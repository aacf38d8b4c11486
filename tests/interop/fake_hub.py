"""A hub on this machine: repositories in memory, the few requests that pushing and fetching an SAE makes."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class FakeHub:
    """`repos[name][commit][file]` is bytes; the last commit is main's. `requests` are the paths that were asked for."""

    def __init__(self):
        self.repos, self.requests, self.private, self.url = {}, [], set(), ""
        self.deny = False

    def commit(self, repo, files):
        history = self.repos[repo]
        before = next(reversed(history.values()), {})
        number = hashlib.sha1(f"{repo} {len(history)}".encode()).hexdigest()
        history[number] = {**before, **files}
        return number

    def at(self, repo, revision):
        history = self.repos.get(repo, {})
        commit = next(reversed(history), None) if revision == "main" else revision
        return commit, history.get(commit)


@contextmanager
def fake_hub():
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, status, body=b"", **headers):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", headers.pop("length", None) or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_POST(self):
            path, body = unquote(urlparse(self.path).path), self.body()
            hub.requests.append(path)
            if hub.deny:
                return self.answer(403, {"error": "no"}, X_Error_Message="You may not write here")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                if name in hub.repos:
                    return self.answer(409, {"url": f"{hub.url}/{name}"})
                hub.repos[name] = {}
                return self.answer(200, {"url": f"{hub.url}/{name}", "name": name, "id": name})
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            parts = path.removeprefix("/api/models/").split("/")
            repo, verb = "/".join(parts[:2]), parts[2]
            if verb == "preupload":
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self.answer(200, {"files": modes})
            if verb == "commit":
                lines = [json.loads(line) for line in body.splitlines()]
                found = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                commit = hub.commit(repo, found)
                return self.answer(
                    200, {"success": True, "commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit}
                )
            return self.answer(404, {"error": path})

        def do_GET(self):
            path = unquote(urlparse(self.path).path)
            hub.requests.append(path)
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
                commit, files = hub.at(repo, revision)
                if files is None and repo not in hub.repos:
                    return self.answer(404, {"error": "no repo"}, X_Error_Code="RepoNotFound")
                siblings = [{"rfilename": name} for name in files or {}]
                return self.answer(200, {"id": repo, "sha": commit, "siblings": siblings, "tags": []})
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            commit, files = hub.at(repo, revision)
            if repo not in hub.repos:
                return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            if files is None or name not in files:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            etag = hashlib.sha1(files[name]).hexdigest()
            return self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=commit)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
