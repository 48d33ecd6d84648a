"""What keys cost nginx, and what a greedy client costs the others.

One command, as root, with the demo up: ``PYTHONPATH=tools .venv/bin/python bench/clients.py``. On the demo's proxy it
starts more nginxes with the very nginx.conf and scripts that the role wrote: without keys, with one client, with 5,000,
in front of what answers at once, and of what takes 10 ms, less than any engine; and one in front of a server that works
on eight requests at a time, each for 50 ms, where a greedy client asks for ten times its limit, which is more than the
server can do. Prints two Markdown tables; nothing stays behind.
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
import asyncio, hashlib, http.client, json, os, re, signal, statistics, subprocess, sys, tempfile, threading, time

directory = tempfile.mkdtemp()
os.chmod(directory, 0o755)
written = open("/etc/nginx/nginx.conf").read()
name = re.search(r'"~\^(.+)\\z" [a-z0-9-]+;', written)[1].replace("\\", "")
UNLIMITED = {"expires": None, "models": None, "requests_per_minute": None, "burst": None, "concurrent_requests": None,
             "tokens_per_minute": None}

def key(number):
    return "k%047d" % number

def table(clients):
    return {"keys": {hashlib.sha256(key(n).encode()).hexdigest(): "c%d" % n for n in range(clients)},
            "clients": {"c%d" % n: UNLIMITED for n in range(clients)}, "everyone": UNLIMITED}

def start(port, backend, clients):
    place = f"{directory}/{port}"
    os.mkdir(place)
    json.dump(clients, open(f"{place}/llm-clients.json", "w"))
    for script in ("llm.lua", "llm_clients.lua"):
        text = open(f"/etc/nginx/{script}").read().replace("/etc/nginx/llm-clients.json", f"{place}/llm-clients.json")
        open(f"{place}/{script}", "w").write(text)
    text = re.sub(r"listen [^;]*:\d+ ", f"listen 127.0.0.1:{port} ", written, count=1)
    text = re.sub(r"\n *listen (\[|\S+ (ssl|quic)).*", "", text)
    text = re.sub(r"server \S+:\d+ max_fails.*", f"server 127.0.0.1:{backend};", text, count=1)
    text = re.sub(r"\n *server \S+:\d+ max_fails.*", "", text)
    text = re.sub(r"pid [^;]*;", f"pid {place}/pid;", text)
    text = re.sub(r"(access_log|error_log) \S+/", rf"\1 {place}/", text)
    text = text.replace('lua_package_path "/etc/nginx/', f'lua_package_path "{place}/')
    open(f"{place}/nginx.conf", "w").write(text)
    return subprocess.Popen(["nginx", "-c", f"{place}/nginx.conf", "-g", "daemon off;"])

def start_answers():
    """What stands behind the arms, in processes of its own."""
    text = f"""worker_processes 2; pid {directory}/pid; error_log {directory}/error.log; events {{}}
      http {{ access_log off; keepalive_requests 100000000;
        server {{ listen 127.0.0.1:28090; location / {{ return 200 "{{}}"; }} }} }}"""
    open(f"{directory}/answers.conf", "w").write(text)
    return subprocess.Popen(["nginx", "-c", f"{directory}/answers.conf", "-g", "daemon off;"])

def keys_cost(backend, port, number_of_rounds, per_round):
    arms = {"none": (port, 0), "1 client": (port + 1, 1), "5,000 clients": (port + 2, 5000)}
    servers = [start(port, backend, table(clients)) for port, clients in arms.values()]
    try:
        time.sleep(1)
        connections = {arm: http.client.HTTPConnection("127.0.0.1", port) for arm, (port, _) in arms.items()}
        body = json.dumps({"messages": [{"role": "user", "content": "word " * 200}], "model": name}).encode()
        rounds = {arm: [] for arm in arms}
        number = 0
        for _ in range(number_of_rounds):
            for arm, connection in connections.items():
                taken = []
                for _ in range(per_round):
                    number += 7
                    headers = {"Content-Type": "application/json",
                               "Authorization": "Bearer " + key(number % max(1, arms[arm][1]))}
                    began = time.perf_counter()
                    connection.request("POST", "/v1/chat/completions", body, headers)
                    response = connection.getresponse()
                    response.read()
                    taken.append((time.perf_counter() - began) * 1000)
                    assert response.status == 200, response.status
                rounds[arm].append(statistics.median(taken))
        return rounds
    finally:
        end(servers)

def end(servers):
    for server in servers:
        server.send_signal(signal.SIGTERM)
        server.wait(10)

async def engine(port, seconds):
    """Eight requests at a time, each for so long."""
    slots = asyncio.Semaphore(8)
    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                async with slots:
                    await asyncio.sleep(seconds)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
    return await asyncio.start_server(serve, "127.0.0.1", port)

async def ask(port, client, every_s, seconds, taken, statuses):
    """One connection that asks every so often, whatever the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"messages": [], "model": name}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()
    loop = asyncio.get_running_loop()
    due = loop.time()
    while due < seconds:
        await asyncio.sleep(max(0, due - loop.time()))
        began = loop.time()
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", answer)[1]))
        taken.append((loop.time() - began) * 1000)
        statuses[int(answer.split()[1])] = statuses.get(int(answer.split()[1]), 0) + 1
        due += every_s
    writer.close()

async def round_of(port, greedy, seconds=6):
    """Four calm clients ask ten times a second each; a greedy one 200 times, over twenty connections."""
    until = asyncio.get_running_loop().time() + seconds
    calm, his, statuses, greedy_statuses = [], [], {}, {}
    tasks = [ask(port, key(n), 0.1, until, calm, statuses) for n in range(4)]
    if greedy:
        tasks += [ask(port, key(greedy), 0.1, until, his, greedy_statuses) for _ in range(20)]
    await asyncio.gather(*tasks)
    assert set(statuses) == {200}, statuses
    return {"p99": sorted(calm)[int(len(calm) * 0.99)], "greedy": greedy_statuses}

async def greedy_costs():
    server = await engine(28094, 0.05)
    clients = table(6)
    # 1,200 a minute are a tenth of what it asks for.
    clients["clients"]["c4"] = dict(UNLIMITED, requests_per_minute=1200, burst=20, concurrent_requests=2)
    proxy = start(28095, 28094, clients)
    try:
        await asyncio.sleep(1)
        found = []
        for _ in range(5):
            found.append([await round_of(28095, greedy) for greedy in (None, 4, 5)])
        return found
    finally:
        end([proxy])
        server.close()

def run_engine():
    """For as long as this program, in a thread."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine(28096, 0.01))
    loop.run_forever()

answers = start_answers()
try:
    threading.Thread(target=run_engine, daemon=True).start()
    result = {"at once": keys_cost(28090, 28100, 60, 100), "after 10 ms": keys_cost(28096, 28110, 20, 30)}
    print(json.dumps({"keys": result, "greedy": asyncio.run(greedy_costs())}))
finally:
    end([answers])
    subprocess.run(["rm", "-r", directory], check=True)
'''


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="demo", help="name of the hosts' network (default: demo)")
    parser.add_argument("--host", default="proxy1", help="the proxy (default: proxy1)")
    options = parser.parse_args()
    state = os.environ.get("TESTHOSTS_DIR", Path(__file__).parents[1] / ".cache" / "testhosts")
    hosts = TestHosts(options.network, state_dir=Path(state))
    found = json.loads(hosts.execute(options.host, ["python3", "-c", _MEASURE], timeout_seconds=300).stdout)
    print("| what is behind answers | keys | p50, ms | ratio to none, median of rounds |\n|---|---|---|---|")
    for backend, arms in found["keys"].items():
        for arm, rounds in arms.items():
            ratios = [one / other for one, other in zip(rounds, arms["none"], strict=True)]
            print(f"| {backend} | {arm} | {_median(rounds):.3f} | {_median(ratios):.3f} |")
    print("\n| round | others' p99 alone, ms | beside a limited one | ratio | its answers | an unlimited one | ratio |")
    print("|---|---|---|---|---|---|---|")
    for number, (alone, limited, free) in enumerate(found["greedy"], 1):
        ratios = [each["p99"] / alone["p99"] for each in (limited, free)]
        print(
            f"| {number} | {alone['p99']:.1f} | {limited['p99']:.1f} | {ratios[0]:.2f} | {limited['greedy']} |"
            f" {free['p99']:.1f} | {ratios[1]:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
