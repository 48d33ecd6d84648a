"""What it costs nginx to find the model in a body: milliseconds per request, beside a plain ``proxy_pass``.

One command, as root, with the demo up: ``PYTHONPATH=tools .venv/bin/python bench/routing.py``. On the demo's proxy it
starts a second nginx with the very nginx.conf that the role wrote, in front of an nginx that answers at once, and asks
it and a plain ``proxy_pass`` in turn over one connection each. Prints a Markdown table; nothing stays behind.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from testhosts import TestHosts

# Runs on the proxy, with the distribution's Python.
_MEASURE = r'''
import http.client, json, os, re, signal, statistics, subprocess, sys, tempfile, time

SIZES, ROUNDS, PER_ROUND = {"1 kB": 1_000, "100 kB": 100_000, "1 MB": 1_000_000, "10 MB": 10_000_000}, 20, 20
directory = tempfile.mkdtemp()
os.chmod(directory, 0o755)
text = open("/etc/nginx/nginx.conf").read()
name = re.search(r'"~\^(.+)\\z" [a-z0-9-]+;', text)[1].replace("\\", "")
text = re.sub(r"listen [^;]*:\d+ ", "listen 127.0.0.1:28080 ", text, count=1)
text = re.sub(r"\n *listen \[.*", "", text)
text = re.sub(r"server \S+:\d+ max_fails.*", "server 127.0.0.1:28081;", text, count=1)
text = re.sub(r"\n *server \S+:\d+ max_fails.*", "", text)
text = re.sub(r"pid [^;]*;", f"pid {directory}/pid;", text)
text = re.sub(r"(access_log|error_log) \S+/", rf"\1 {directory}/", text)
answer = 'client_max_body_size 64m; location / { return 200 "{}"; }'
plain = """proxy_http_version 1.1; proxy_set_header Connection ""; client_max_body_size 64m; client_body_buffer_size 1m;
  location / { proxy_pass http://ray_serve; proxy_buffering off; }"""
more = "".join(f"server {{ listen 127.0.0.1:{port}; {inside} }}" for port, inside in ((28081, answer), (28082, plain)))
text = text.rstrip().rstrip("}") + more + "}"
open(f"{directory}/nginx.conf", "w").write(text)
server = subprocess.Popen(["nginx", "-c", f"{directory}/nginx.conf", "-g", "daemon off;"])
try:
    time.sleep(1)
    ports = {"plain": 28082, "routed": 28080}
    connections = {arm: http.client.HTTPConnection("127.0.0.1", port) for arm, port in ports.items()}
    result = {}
    for label, size in SIZES.items():
        words = "word \"quoted\" and more text " * 40
        turns = [{"role": "user", "content": words} for _ in range(max(1, size // len(words)))]
        body = json.dumps({"messages": turns, "model": name}).encode()
        taken = {arm: [] for arm in connections}
        for _ in range(ROUNDS if size < 5_000_000 else 4):
            for arm, connection in connections.items():
                for _ in range(PER_ROUND if size < 5_000_000 else 3):
                    began = time.perf_counter()
                    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    assert response.status == 200, response.read()
                    response.read()
                    taken[arm].append((time.perf_counter() - began) * 1000)
        result[label] = {arm: statistics.median(values) for arm, values in taken.items()}
    print(json.dumps(result))
finally:
    server.send_signal(signal.SIGTERM)
    server.wait(10)
    subprocess.run(["rm", "-r", directory], check=True)
'''


def main() -> int:
    """Measure, and print the table."""

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="demo", help="name of the hosts' network (default: demo)")
    parser.add_argument("--host", default="proxy1", help="the proxy (default: proxy1)")
    options = parser.parse_args()
    state = os.environ.get("TESTHOSTS_DIR", Path(__file__).parents[1] / ".cache" / "testhosts")
    hosts = TestHosts(options.network, state_dir=Path(state))
    found = json.loads(hosts.execute(options.host, ["python3", "-c", _MEASURE]).stdout)
    print("| body | plain proxy_pass, p50 ms | routed by model, p50 ms | cost, ms |\n|---|---|---|---|")
    for label, arms in found.items():
        plain, routed = arms["plain"], arms["routed"]
        print(f"| {label} | {plain:.2f} | {routed:.2f} | {routed - plain:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
