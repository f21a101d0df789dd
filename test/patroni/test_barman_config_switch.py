"""The callback for a Patroni node, run as Patroni runs it: as a process, over real sockets and real TLS."""

import argparse
import base64
import email.message
import email.utils
import hashlib
import hmac
import http.server
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

CALLBACK = pathlib.Path(__file__).resolve().parents[2] / "patroni" / "barman_config_switch.py"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
SWITCH = [
    "config-switch",
    "--barman-server",
    "main",
    "--barman-model",
    "pg:node1",
    "--switch-when",
    "promoted",
]
FROM_PATRONI = ["on_role_change", "primary", "main"]
QUICK = ["--retry-wait", "0.01"]
#: As Patroni's own: whatever proxy or secret this test was started with is none of it.
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.lower().endswith("_proxy") and name != "BARMAN_CONFIG_SWITCH_SECRET"
}

spec = importlib.util.spec_from_file_location("barman_config_switch", str(CALLBACK))
callback = importlib.util.module_from_spec(spec)
spec.loader.exec_module(callback)


def answer(exit_code, status=200, recorded=True, headers=()):
    names = {code: name for name, code in callback.EXIT_CODES.items()}
    body = {
        "exit_code": exit_code,
        "exit_status": names[exit_code],
        "message": "so it is",
        "recorded": recorded,
    }
    return status, json.dumps(body).encode(), dict(headers)


class Function:
    """The function's HTTP API: answers as it was told, one answer after the other, the last one for ever."""

    def __init__(self, *answers, context=None, host="127.0.0.1"):
        self.requests = []
        self.arrived = threading.Event()
        function = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                function.requests.append((self.path, dict(self.headers), body, time.time()))
                turn = min(len(function.requests), len(answers)) - 1
                function.arrived.set()
                reply = answers[turn]
                if callable(reply):
                    reply(self)
                    return
                status, content, headers = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

            def server_bind(self):
                # Without the look-up of the host's name that http.server makes.
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = self.server_address[:2]

            def handle_error(self, *_):
                pass

        self.host = "[" + host + "]" if ":" in host else host
        self.server = Server((host, 0), Handler)
        self.scheme = "http"
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(
            target=self.server.serve_forever,
            kwargs={"poll_interval": 0.01},
            daemon=True,
        ).start()

    @property
    def url(self):
        return "{}://{}:{}/config-switch".format(self.scheme, self.host, self.server.server_port)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class CallbackTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, str(self.folder))
        self.secret_file = self.folder / "webhook-secret"
        self.write_secret(SECRET)

    def write_secret(self, text, mode=0o600):
        self.secret_file.write_text(text)
        self.secret_file.chmod(mode)

    def function(self, *answers, **options):
        function = Function(*answers, **options)
        self.addCleanup(function.close)
        return function

    def command(self, *options, switch=SWITCH, patroni=FROM_PATRONI):
        return [sys.executable, str(CALLBACK), *options, *switch, *patroni]

    def run_callback(self, *options, env=None, **words):
        """Runs it to its end. Whatever happens: no traceback, no secret."""
        command = self.command("--secret-file", str(self.secret_file), *options, **words)
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENV, **(env or {})},
            timeout=60,
        )
        output = (done.stdout + done.stderr).decode()
        self.assertNotIn("Traceback", output)
        self.assertNotIn(SECRET[6:], output)
        return done.returncode, output

    # What is sent.

    def test_payload(self):
        function = self.function(answer(0))
        code, output = self.run_callback("--url", function.url)
        self.assertEqual(code, 0, output)
        ((path, headers, body, _),) = function.requests
        self.assertEqual(path, "/config-switch")
        payload = json.loads(body.decode())
        self.assertGreaterEqual(payload.pop("age_ms"), 0)
        self.assertEqual(
            payload,
            {
                "action": "on_role_change",
                "role": "primary",
                "cluster": "main",
                "barman_server": "main",
                "barman_model": "pg:node1",
                "switch_when": "promoted",
            },
        )
        self.assertEqual(headers["content-type"], "application/json")

    def test_reset_dry_run_and_master(self):
        function = self.function(answer(1))
        switch = [
            "config-switch",
            "--barman-server",
            "main",
            "--reset",
            "--switch-when",
            "always",
        ]
        words = ["on_role_change", "master", "main"]
        code, _ = self.run_callback("--url", function.url, "--dry-run", switch=switch, patroni=words)
        self.assertEqual(code, 1)
        payload = json.loads(function.requests[0][2].decode())
        self.assertEqual(
            (payload["reset"], payload["dry_run"], payload["role"]),
            (True, True, "master"),
        )
        self.assertNotIn("barman_model", payload)

    def test_signature_is_that_of_the_published_example(self):
        # The reference libraries' own tests have it.
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        signed = callback.signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        self.assertEqual(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")

    def test_each_attempt_is_signed_afresh_under_one_id(self):
        function = self.function(answer(3, 502, recorded=False), answer(3, 502, recorded=False), answer(0))
        self.write_secret(SECRET + " " + OTHER_SECRET + "\n")
        code, output = self.run_callback("--url", function.url, *QUICK)
        self.assertEqual(code, 0, output)
        self.assertEqual(len({headers["webhook-id"] for _, headers, _, _ in function.requests}), 1)
        ages = [json.loads(body.decode())["age_ms"] for _, _, body, _ in function.requests]
        self.assertEqual(ages, sorted(ages))
        for _, headers, body, arrived in function.requests:
            self.assertLess(abs(arrived - int(headers["webhook-timestamp"])), 5)
            signed = "{webhook-id}.{webhook-timestamp}.".format(**headers).encode() + body
            expected = [
                "v1," + base64.b64encode(hmac.new(bytes(range(n, n + 32)), signed, hashlib.sha256).digest()).decode()
                for n in (0, 1)
            ]
            self.assertEqual(headers["webhook-signature"].split(), expected)

    def test_secret_from_the_environment(self):
        function = self.function(answer(0))
        command = self.command("--url", function.url)
        env = {**ENV, "BARMAN_CONFIG_SWITCH_SECRET": SECRET}
        self.assertEqual(
            subprocess.run(command, env=env, stderr=subprocess.DEVNULL, timeout=60).returncode,
            0,
        )

    # What is answered.

    def test_answers_that_are_final(self):
        for exit_code, status, recorded in [
            (0, 200, True),
            (1, 200, False),
            (2, 502, True),
            (3, 502, True),
            (3, 503, True),
            (4, 400, False),
        ]:
            with self.subTest(exit_code=exit_code, status=status):
                function = self.function(answer(exit_code, status, recorded))
                self.assertEqual(self.run_callback("--url", function.url, *QUICK)[0], exit_code)
                self.assertEqual(len(function.requests), 1)

    def test_answers_that_are_sent_again(self):
        for first in [
            answer(3, 502, recorded=False),
            answer(3, 504, recorded=False),
            (503, b'{"message":"Service Unavailable"}', {}),
            (429, b'{"message":"Too Many Requests"}', {}),
            (500, b"", {}),
            (200, b"<html>", {}),
            (200, b'{"exit_code":true}', {}),
            (200, b'{"exit_code":7}', {}),
            (200, b"\xff\xfe", {}),
            (200, b"[" * 60000, {}),
            (408, b"", {}),
            (503, b"", {"retry-after": "\xb2", "date": "yesterday"}),
            (200, b"", {"content-length": "many"}),
            (200, b"zz\r\n", {"transfer-encoding": "chunked"}),
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000),
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 " + b"x" * 100000),
            lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
            lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"),
        ]:
            with self.subTest(first=first):
                function = self.function(first, answer(0))
                code, output = self.run_callback("--url", function.url, *QUICK)
                self.assertEqual((code, len(function.requests)), (0, 2), output)
                self.assertEqual(len(output.splitlines()), 2, "a line an attempt")

    def test_answers_that_are_none(self):
        for status, words in [
            (301, "redirect"),
            (308, "redirect"),
            (403, "403"),
            (404, "404"),
        ]:
            with self.subTest(status=status):
                location = self.function(answer(0))
                # Whoever redirects is not the function, whatever else it says.
                body = answer(0)[1] if status < 400 else b"no"
                function = self.function((status, body, {"location": location.url}))
                code, output = self.run_callback("--url", function.url, *QUICK)
                self.assertEqual((code, len(function.requests), len(location.requests)), (3, 1, 0))
                self.assertIn(words, output)

    def test_rejected_for_the_secret_or_the_clock(self):
        def rejected(ahead):
            date = email.utils.formatdate(time.time() - ahead, usegmt=True)
            return lambda handler: handler.wfile.write(
                "HTTP/1.1 401 Unauthorized\r\ndate: {}\r\ncontent-length: 0\r\n\r\n".format(date).encode()
            )

        for ahead, words in [
            (0, "secret is none of"),
            (-400, r"clock is (39|40)\d s slow"),
            (900, r"clock is 90\d s fast"),
        ]:
            with self.subTest(ahead=ahead):
                function = self.function(rejected(ahead))
                code, output = self.run_callback("--url", function.url)
                self.assertEqual((code, len(output.splitlines())), (3, 1))
                self.assertRegex(output, words)

    def test_retry_after(self):
        function = self.function(answer(3, 503, recorded=False, headers={"retry-after": "1"}), answer(0))
        self.assertEqual(self.run_callback("--url", function.url, *QUICK)[0], 0)
        self.assertGreaterEqual(function.requests[1][3] - function.requests[0][3], 1)

    def test_max_retries(self):
        function = self.function(answer(3, 502, recorded=False))
        code, output = self.run_callback("--url", function.url, *QUICK, "--max-retries", "3")
        self.assertEqual((code, len(function.requests)), (3, 3))
        self.assertIn("given up", output.splitlines()[-1])

    def test_max_time(self):
        release = threading.Event()
        self.addCleanup(release.set)
        function = self.function(lambda handler: release.wait(30))
        code, output = self.run_callback("--url", function.url, "--max-time", "1")
        self.assertEqual((code, len(function.requests)), (3, 1))
        self.assertIn("no answer within", output)

    def test_dry_run_is_one_attempt(self):
        function = self.function(answer(3, 502, recorded=False))
        self.assertEqual(self.run_callback("--url", function.url, "--dry-run")[0], 3)
        self.assertEqual(len(function.requests), 1)
        function = self.function(answer(3, 502, recorded=False), answer(1))
        self.assertEqual(
            self.run_callback("--url", function.url, "--dry-run", "--max-retries", "2", *QUICK)[0],
            1,
        )

    def test_nobody_there(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:{}/".format(taken.getsockname()[1])
            code, output = self.run_callback("--url", url, "--max-retries", "2", *QUICK)
        self.assertEqual(code, 3)
        self.assertIn("refused", output)

    def test_huge_answer(self):
        function = self.function((200, b"x" * 1000000, {}))
        code, output = self.run_callback("--url", function.url, "--max-retries", "1")
        self.assertEqual(code, 3)
        self.assertLess(len(output), 2000)

    def test_several_hosts_the_worst_code_wins(self):
        done, failed = self.function(answer(0)), self.function(answer(2, 502))
        code, _ = self.run_callback("--url", done.url, "--url", failed.url)
        self.assertEqual(code, 2)
        self.assertEqual(done.requests[0][1]["webhook-id"], failed.requests[0][1]["webhook-id"])

    def test_several_hosts_are_called_at_once(self):
        second = self.function(answer(0))

        def reply(handler):
            self.assertTrue(second.arrived.wait(30))
            status, body, _ = answer(0)
            handler.send_response(status)
            handler.end_headers()
            handler.wfile.write(body)

        first = self.function(reply)
        self.assertEqual(self.run_callback("--url", first.url, "--url", second.url)[0], 0)

    def test_one_host_that_is_down_does_not_keep_the_others_waiting(self):
        good, down = self.function(answer(0)), self.function((503, b"", {}))
        code, _ = self.run_callback("--url", down.url, "--url", good.url, "--max-retries", "2", *QUICK)
        self.assertEqual((code, len(good.requests), len(down.requests)), (3, 1, 2))

    def test_drip(self):
        """A server that sends a byte now and then does not hold an attempt for ever."""

        def drip(handler):
            try:
                while True:
                    handler.wfile.write(b"H")
                    time.sleep(0.02)
            except OSError:
                pass

        function = self.function(drip, answer(0))
        program = (
            "import sys; sys.path.insert(0, {!r}); import barman_config_switch as callback;"
            "callback.ATTEMPT_TIMEOUT = 0.3; sys.exit(callback.main(sys.argv[1:]))"
        ).format(str(CALLBACK.parent))
        command = [
            sys.executable,
            "-B",
            "-c",
            program,
            "--url",
            function.url,
            "--secret-file",
            str(self.secret_file),
        ]
        done = subprocess.run(
            [*command, *QUICK, *SWITCH, *FROM_PATRONI],
            stderr=subprocess.PIPE,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def test_killed_in_mid_flight(self):
        for by in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            with self.subTest(by=by):
                release = threading.Event()
                function = self.function(lambda handler: release.wait(30))  # noqa: B023
                command = self.command("--url", function.url, "--secret-file", str(self.secret_file))
                before = sorted(os.listdir(str(self.folder)))
                with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENV) as process:
                    self.assertTrue(function.arrived.wait(30))
                    with open("/proc/{}/cmdline".format(process.pid), "rb") as words:
                        self.assertNotIn(SECRET[6:].encode(), words.read(), "as ps shows it")
                    process.send_signal(by)
                    self.assertEqual(process.wait(30), -by)
                    self.assertEqual(process.stderr.read(), b"")
                self.assertEqual(sorted(os.listdir(str(self.folder))), before)
                release.set()

    # When.

    def test_age_counts_connecting_in(self):
        """A connection that took long must not make an old role change look like a new one."""
        context = self.certificates()
        ages = []

        def serve(listening):
            connection, _ = listening.accept()
            time.sleep(1.5)  # As if the first packets of TLS were lost.
            with context.wrap_socket(connection, server_side=True) as tls:
                request = b""
                while not request.endswith(b"}"):
                    request += tls.recv(65536)
                ages.append(json.loads(request.split(b"\r\n\r\n")[1].decode())["age_ms"])
                body = answer(0)[1]
                tls.sendall("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n".format(len(body)).encode() + body)

        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1)
            server = threading.Thread(target=serve, args=(listening,))
            server.start()
            url = "https://127.0.0.1:{}/".format(listening.getsockname()[1])
            code, output = self.run_callback("--url", url, "--ca-file", str(self.folder / "ca.pem"))
            server.join()
        self.assertEqual(code, 0, output)
        self.assertGreaterEqual(ages[0], 1500)

    def test_attempt_that_connected_too_late_is_not_sent(self):
        function = self.function(answer(0))
        target = callback.Target(function.url, callback.tls_context(None, None, None), False)
        args = argparse.Namespace()
        attempt = callback.try_once(target, [b"secret"], "msg_1", args, callback.elapsed() - 1)
        self.assertTrue(attempt.again)
        self.assertEqual(function.requests, [])

    # TLS.

    def certificates(self):
        def openssl(*words):
            subprocess.run(
                ["openssl", *words],
                cwd=str(self.folder),
                check=True,
                stderr=subprocess.DEVNULL,
            )

        new = [
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
        ]
        openssl(
            *new,
            "/CN=Test CA",
            "-x509",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        )
        (self.folder / "san").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        for name in ("server", "client"):
            openssl(*new, "/CN=" + name, "-keyout", name + ".key", "-out", name + ".csr")
            signed = [
                "x509",
                "-req",
                "-in",
                name + ".csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
            ]
            openssl(*signed, "-extfile", "san", "-out", name + ".pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(self.folder / "server.pem"), str(self.folder / "server.key"))
        return context

    def test_tls(self):
        context = self.certificates()
        function = self.function(answer(0), context=context)
        ca = ["--ca-file", str(self.folder / "ca.pem")]
        self.assertEqual(self.run_callback("--url", function.url, *ca)[0], 0)
        code, output = self.run_callback("--url", function.url, "--max-retries", "1")
        self.assertEqual(code, 3, "a CA that is not known")
        self.assertIn("TLS failed", output)
        self.assertEqual(len(function.requests), 1)

    def test_mutual_tls(self):
        context = self.certificates()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(self.folder / "ca.pem"))
        function = self.function(answer(0), context=context)
        common = [
            "--url",
            function.url,
            "--ca-file",
            str(self.folder / "ca.pem"),
            "--max-retries",
            "1",
        ]
        client = [
            "--client-cert",
            str(self.folder / "client.pem"),
            "--client-key",
            str(self.folder / "client.key"),
        ]
        self.assertEqual(self.run_callback(*common, *client)[0], 0)
        self.assertEqual(self.run_callback(*common)[0], 3)

    def test_certificate_of_another_host(self):
        context = self.certificates()
        function = self.function(answer(0), context=context)
        url = function.url.replace("127.0.0.1", "localhost")
        code, output = self.run_callback(
            "--url",
            url,
            "--ca-file",
            str(self.folder / "ca.pem"),
            "--max-retries",
            "2",
            *QUICK,
        )
        self.assertEqual((code, function.requests), (3, []))
        self.assertIn("attempt 2: TLS failed", output)

    def test_key_with_a_pass_phrase_does_not_ask_for_it(self):
        self.certificates()
        encrypt = [
            "openssl",
            "pkey",
            "-in",
            "client.key",
            "-aes256",
            "-passout",
            "pass:word",
            "-out",
            "locked.key",
        ]
        subprocess.run(encrypt, cwd=str(self.folder), check=True, stderr=subprocess.DEVNULL)
        client = [
            "--client-cert",
            str(self.folder / "client.pem"),
            "--client-key",
            str(self.folder / "locked.key"),
        ]
        code, output = self.run_callback("--url", "https://example.com/", *client)
        self.assertEqual(code, 4)
        self.assertIn("--client-cert", output)

    # Ways there.

    def test_ipv6(self):
        try:
            function = self.function(answer(0), host="::1")
        except OSError:
            self.skipTest("no IPv6 here")
        self.assertEqual(self.run_callback("--url", function.url)[0], 0)
        self.assertRegex(function.requests[0][1]["Host"], r"^\[::1\]:\d+$")

    def test_url_without_a_path(self):
        function = self.function(answer(0))
        self.assertEqual(
            self.run_callback("--url", function.url.replace("/config-switch", "?stage=prod"))[0],
            0,
        )
        self.assertEqual(function.requests[0][0], "/?stage=prod")

    # Arguments.

    def test_wrong_arguments(self):
        url = ["--url", "https://example.com/config-switch"]
        for options, words, message in [
            ([], {}, "--url"),
            (["--url", "example.com"], {}, "--url example.com"),
            (["--url", "http://example.com/"], {}, "--allow-plain-http"),
            (["--url", "https://user:word@example.com/"], {}, "--url"),
            (["--url", "https://example.com:port/"], {}, "--url"),
            (["--url", "http://[::1/"], {}, "--url"),
            (["--url", "https://a..b/"], {}, "--url"),
            (["--url", "https://example.com/a b"], {}, "--url"),
            (["--url", "https://example.com/\xe9"], {}, "--url"),
            (["--url", "https://example.com/#x"], {}, "--url"),
            (["--ur", "https://example.com/"], {}, "config-switch"),
            (url + ["--retry-wait", "0"], {}, "--retry-wait"),
            (url + ["--max-time", "nan"], {}, "--max-time"),
            (url + ["--retry-wait", "soon"], {}, "--retry-wait"),
            (url + ["--max-retries", "0"], {}, "--max-retries"),
            (url + ["--ca-file", "/nowhere"], {}, "--ca-file /nowhere"),
            (url + ["--client-cert", "/nowhere"], {}, "--client-cert /nowhere"),
            (url + ["--client-key", "/nowhere"], {}, "--client-key"),
            (url + ["--secret-file", "/nowhere"], {}, "--secret-file /nowhere"),
            (url + ["--surprise"], {}, "--surprise"),
            (url, {"switch": [], "patroni": []}, "config-switch"),
            (url, {"patroni": []}, "action"),
            (url, {"patroni": ["on_start", "primary", "main"]}, "on_start"),
            (url, {"switch": SWITCH[:3] + SWITCH[5:]}, "--barman-model"),
            (url, {"switch": SWITCH + ["--reset"]}, "--reset"),
            (url, {"switch": SWITCH[:-1] + ["sometimes"]}, "sometimes"),
        ]:
            with self.subTest(options=options, words=words):
                code, output = self.run_callback(*options, **words)
                self.assertEqual(code, 4, output)
                self.assertIn(message, output)

    def test_secret_that_is_no_good(self):
        for text, mode, message in [
            (SECRET, 0o640, "chmod 600"),
            (SECRET, 0o604, "chmod 600"),
            ("", 0o600, "empty"),
            ("secret", 0o600, "whsec_"),
            ("whsec_short", 0o600, "whsec_"),
            ("whsec_!!!!", 0o600, "whsec_"),
            (SECRET + " secret", 0o600, "whsec_"),
        ]:
            with self.subTest(text=text, mode=oct(mode)):
                self.write_secret(text, mode)
                code, output = self.run_callback("--url", "https://example.com/")
                self.assertEqual(code, 4)
                self.assertIn(message, output)

    def test_no_secret(self):
        command = self.command("--url", "https://example.com/")
        done = subprocess.run(command, env=ENV, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 4)
        self.assertIn(b"--secret-file", done.stderr)

    def test_log_file(self):
        function = self.function(answer(2, 502))
        log = self.folder / "log"
        code, output = self.run_callback("--url", function.url, "--log-file", str(log))
        self.assertEqual((code, output), (2, ""))
        self.assertRegex(
            log.read_text(),
            r"^\S+ \S+ ERROR: http://\S+, attempt 1: CONFIG_SWITCH_FAILED so it is",
        )

    def test_wrong_arguments_are_told_in_the_log_and_to_who_tries_it(self):
        log = self.folder / "log"
        code, output = self.run_callback("--url", "ftp://x", "--log-file", str(log))
        self.assertEqual((code, len(output.splitlines())), (4, 1))
        self.assertEqual(log.read_text(), output)

    def test_log_that_cannot_be_written_keeps_nothing_from_being_sent(self):
        function = self.function(answer(0))
        code, output = self.run_callback("--url", function.url, "--log-file", "/nowhere/log")
        self.assertEqual(code, 0)
        self.assertIn("--log-file /nowhere/log: No such file or directory", output)
        self.assertEqual(self.run_callback("--url", function.url, "--log-file", "/dev/full"), (0, ""))
        with open("/dev/full", "w") as full:
            for options, expected in [
                (["--url", function.url], 0),
                (["--surprise"], 4),
            ]:
                command = self.command("--secret-file", str(self.secret_file), *options)
                self.assertEqual(
                    subprocess.run(command, env=ENV, stderr=full, timeout=60).returncode,
                    expected,
                )
        self.assertEqual(len(function.requests), 3)

    def test_secret_on_the_command_line_is_not_repeated(self):
        for options in (
            ["--secret", SECRET],
            ["--secret-file", SECRET],
            ["--url", SECRET],
            [SECRET],
        ):
            with self.subTest(options=options[:-1]):
                self.assertEqual(self.run_callback("--url", "https://example.com/", *options)[0], 4)

    def test_words_that_are_not_utf_8(self):
        function = self.function(answer(0))
        log = self.folder / "log"
        for env in ({"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}):
            with self.subTest(env=env):
                words = ["on_role_change", "primary", b"caf\xe9"]
                code, output = self.run_callback(
                    "--url",
                    function.url,
                    "--log-file",
                    str(log),
                    patroni=words,
                    env=env,
                )
                self.assertEqual((code, output), (0, ""))
                self.assertEqual(
                    json.loads(function.requests[-1][2].decode())["cluster"],
                    "caf\udce9",
                )
        code, output = self.run_callback(b"--url", b"ftp://\xe9", "--log-file", str(log), env={"LC_ALL": "C"})
        self.assertEqual((code, len(log.read_text(encoding="utf-8").splitlines())), (4, 3))

    def test_log_is_a_line_an_attempt_whatever_is_answered(self):
        evil = {
            "exit_code": 0,
            "exit_status": "DONE\n",
            "message": "\x1b[2J\r\nforged \u2028 line",
            "recorded": True,
        }
        function = self.function((503, b"\r\n\x00\xff" * 100, {}), (200, json.dumps(evil).encode(), {}))
        code, output = self.run_callback("--url", function.url, *QUICK)
        self.assertEqual((code, len(output.splitlines())), (0, 2))
        self.assertTrue(all(letter.isprintable() or letter == "\n" for letter in output), output)


class PausesTest(unittest.TestCase):
    """When it is tried again, by a clock of our own."""

    def setUp(self):
        self.now = 0.0
        self.began = []
        self.answers = []
        patches = [
            mock.patch.object(callback, "elapsed", lambda: self.now),
            mock.patch.object(callback.time, "sleep", self.sleep),
            mock.patch.object(callback, "within", self.within),
            mock.patch.object(callback.logger, "log"),
            mock.patch.object(callback.logger, "warning"),
        ]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)

    def sleep(self, pause):
        self.now += pause

    def within(self, limit, _):
        self.began.append(self.now)
        self.assertGreater(limit, 0)
        return self.answers[min(len(self.began), len(self.answers)) - 1]

    def send(self, *answers, **options):
        self.now, self.began, self.answers = 0.0, [], answers
        args = argparse.Namespace(**{"retry_wait": 2.0, "max_retries": None, "max_time": 600.0, **options})
        code = callback.send(argparse.Namespace(url="https://x/"), [], "msg_1", args)
        return code, [after - before for before, after in zip(self.began, self.began[1:])]

    def judge(self, status, **header):
        message = email.message.Message()
        for name, value in header.items():
            message[name.replace("_", "-")] = value
        return callback.judge(status, message, b"")

    def test_pauses_grow_and_are_random(self):
        for chance in (0, 0.5, 1):
            with mock.patch.object(
                callback.random,
                "uniform",
                lambda low, high: low + chance * (high - low),
            ):  # noqa: B023
                code, pauses = self.send(self.judge(503))
            grown = [2 + chance * growth for growth in (4, 8, 10, 10)]
            self.assertEqual((code, pauses[:4]), (3, grown))

    def test_ten_minutes_of_attempts_and_no_longer(self):
        _, pauses = self.send(self.judge(503))
        self.assertTrue(all(2 <= pause <= 12 for pause in pauses))
        self.assertTrue(588 < self.now < 600)
        self.assertTrue(50 <= len(self.began) <= 300)

    def test_many_attempts(self):
        with mock.patch.object(callback.random, "uniform", lambda low, high: low):
            code, _ = self.send(self.judge(503), retry_wait=0.01, max_retries=5000)
        self.assertEqual((code, len(self.began)), (3, 5000))

    def test_retry_after_in_seconds_or_as_a_date_and_a_minute_at_most(self):
        date = email.utils.formatdate(1e9, usegmt=True)
        for header, least in [
            ({"retry_after": "30"}, 30),
            ({"retry_after": "3600"}, 60),
            (
                {
                    "retry_after": email.utils.formatdate(1e9 + 40, usegmt=True),
                    "date": date,
                },
                40,
            ),
            (
                {
                    "retry_after": email.utils.formatdate(1e9 - 40, usegmt=True),
                    "date": date,
                },
                2,
            ),
            ({"retry_after": "-5"}, 2),
            ({"retry_after": "nan"}, 2),
            ({"retry_after": "soon"}, 2),
            ({"retry_after": " "}, 2),
        ]:
            with self.subTest(header=header):
                _, (pause,) = self.send(self.judge(503, **header), callback.Attempt(0, "done"))
                self.assertTrue(least <= pause <= least + 10, pause)


if __name__ == "__main__":
    unittest.main()
