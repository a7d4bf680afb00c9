"""A stand-in for the Hugging Face Hub on this machine: what `huggingface_hub` needs to write and read a repository."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Repositories in memory; serves from `with Hub() as hub:` to its end.

    Attributes:
        repositories: Dictionary from `user/name` to its commits, each a dictionary from paths to contents.
        refuses: Boolean, whether the user may not write.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.refuses, self.url = {}, False, f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            return self._create(json.loads(content))
        if self.path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        repo, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/main", self.path.split("?")[0]).groups()
        if action == "preupload":
            files = [file["path"] for file in json.loads(content)["files"]]
            return self._send({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        return self._commit(repo, [json.loads(line) for line in content.splitlines()])

    def _create(self, asked):
        if "authorization" not in self.headers:
            return self._send({"error": "Invalid username or password."}, 401)
        repo = f"{asked['organization']}/{asked['name']}"
        self.server.repositories.setdefault(repo, [{}])
        return self._send({"url": f"{self.server.url}/{repo}", "name": repo})

    def _commit(self, repo, lines):
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        if self.server.refuses:
            return self._send({"error": "You may not write here."}, 403)
        commits = self.server.repositories[repo]
        commits.append(commits[-1] | files)
        return self._send({"success": True, "commitOid": _oid(commits), "commitUrl": f"{self.server.url}/{repo}/commit/x"})

    def do_GET(self):
        path = self.path.split("?")[0]
        repo = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if repo not in self.server.repositories:
            return self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        commits = self.server.repositories[repo]
        files, sha = commits[-1], _oid(commits)
        if "/resolve/" in path:
            content = files[path.split("/", 5)[5]]
            return self._send(content, headers={"ETag": f'"{_hash(content)}"', "X-Repo-Commit": sha})
        if "/tree/" in path:
            return self._send([{"type": "file", "path": n, "size": len(c), "oid": _hash(c)} for n, c in files.items()])
        return self._send({"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]})

    do_HEAD = do_GET

    def _send(self, content, status=200, headers=()):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def _hash(content):
    return hashlib.sha1(content).hexdigest()


def _oid(commits):
    return _hash(repr(commits).encode())
