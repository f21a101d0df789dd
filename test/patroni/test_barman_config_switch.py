"""The callback for a Patroni node, run as Patroni runs it: as a process, over real sockets and real TLS."""

import base64
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
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

CALLBACK = pathlib.Path(__file__).resolve().parents[2] / "patroni" / "barman_config_switch.py"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
SWITCH = ["config-switch", "--barman-server", "main", "--barman-model", "pg:node1", "--switch-when", "promoted"]
FROM_PATRONI = ["on_role_change", "primary", "main"]
QUICK = ["--retry-wait", "0.01"]

spec = importlib.util.spec_from_file_location("barman_config_switch", str(CALLBACK))
callback = importlib.util.module_from_spec(spec)
spec.loader.exec_module(callback)


def answer(exit_code, status=200, recorded=True, headers=()):
    names = {code: name for name, code in callback.EXIT_CODES.items()}
    body = {"exit_code": exit_code, "exit_status": names[exit_code], "message": "so it is", "recorded": recorded}
    return status, json.dumps(body).encode(), dict(headers)


class Function:
    """The function's HTTP API: answers as it was told, one answer after the other, the last one for ever."""

    def __init__(self, *answers, context=None):
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

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return "{}://127.0.0.1:{}/config-switch".format(self.scheme, self.server.server_port)

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
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}, timeout=60
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
        switch = ["config-switch", "--barman-server", "main", "--reset", "--switch-when", "always"]
        words = ["on_role_change", "master", "main"]
        code, _ = self.run_callback("--url", function.url, "--dry-run", switch=switch, patroni=words)
        self.assertEqual(code, 1)
        payload = json.loads(function.requests[0][2].decode())
        self.assertEqual((payload["reset"], payload["dry_run"], payload["role"]), (True, True, "master"))
        self.assertNotIn("barman_model", payload)

    def test_signature_of_the_reference_library(self):
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLBXQ")
        signed = callback.signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        self.assertEqual(signed, "v1,noc6/sU82oi1HB+saJK6GxV7Vt0mk+d1HEn1oUM1wXA=")

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
        env = {**os.environ, "BARMAN_CONFIG_SWITCH_SECRET": SECRET}
        self.assertEqual(subprocess.run(command, env=env, stderr=subprocess.DEVNULL, timeout=60).returncode, 0)

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
            lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
            lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"),
        ]:
            with self.subTest(first=first):
                function = self.function(first, answer(0))
                code, output = self.run_callback("--url", function.url, *QUICK)
                self.assertEqual((code, len(function.requests)), (0, 2), output)
                self.assertEqual(len(output.splitlines()), 2, "a line an attempt")

    def test_answers_that_are_none(self):
        for status, words in [(401, "clock"), (301, "redirect"), (308, "redirect"), (403, "403"), (404, "404")]:
            with self.subTest(status=status):
                location = self.function(answer(0))
                function = self.function((status, b"no", {"location": location.url}))
                code, output = self.run_callback("--url", function.url, *QUICK)
                self.assertEqual((code, len(function.requests), len(location.requests)), (3, 1, 0))
                self.assertIn(words, output)

    def test_retry_after(self):
        function = self.function(answer(3, 503, recorded=False, headers={"retry-after": "1"}), answer(0))
        self.assertEqual(self.run_callback("--url", function.url, *QUICK)[0], 0)
        self.assertGreaterEqual(function.requests[1][3] - function.requests[0][3], 1)

    def test_max_retries_and_max_time(self):
        for options, most in [(["--max-retries", "3"], 3), (["--max-time", "0"], 1)]:
            with self.subTest(options=options):
                function = self.function(answer(3, 502, recorded=False))
                code, _ = self.run_callback("--url", function.url, *QUICK, *options)
                self.assertEqual((code, len(function.requests)), (3, most))

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
        command = [sys.executable, "-B", "-c", program, "--url", function.url, "--secret-file", str(self.secret_file)]
        done = subprocess.run([*command, *QUICK, *SWITCH, *FROM_PATRONI], stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def test_killed_in_mid_flight(self):
        release = threading.Event()
        function = self.function(lambda handler: release.wait(30))
        command = self.command("--url", function.url, "--secret-file", str(self.secret_file))
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            self.assertTrue(function.arrived.wait(30))
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(30), -signal.SIGTERM)
            self.assertNotIn(b"Traceback", process.stderr.read())
        release.set()

    # TLS.

    def certificates(self):
        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=str(self.folder), check=True, stderr=subprocess.DEVNULL)

        new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
        openssl(*new, "/CN=Test CA", "-x509", "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem")
        (self.folder / "san").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        for name in ("server", "client"):
            openssl(*new, "/CN=" + name, "-keyout", name + ".key", "-out", name + ".csr")
            signed = ["x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
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
        common = ["--url", function.url, "--ca-file", str(self.folder / "ca.pem"), "--max-retries", "1"]
        client = ["--client-cert", str(self.folder / "client.pem"), "--client-key", str(self.folder / "client.key")]
        self.assertEqual(self.run_callback(*common, *client)[0], 0)
        self.assertEqual(self.run_callback(*common)[0], 3)

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
            (url + ["--retry-wait", "soon"], {}, "--retry-wait"),
            (url + ["--max-retries", "0"], {}, "--max-retries"),
            (url + ["--ca-file", "/nowhere"], {}, "--ca-file /nowhere"),
            (url + ["--client-cert", "/nowhere"], {}, "--client-cert /nowhere"),
            (url + ["--client-key", "/nowhere"], {}, "--client-key"),
            (url + ["--log-file", "/nowhere/log"], {}, "--log-file /nowhere/log"),
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
        env = {name: value for name, value in os.environ.items() if name != "BARMAN_CONFIG_SWITCH_SECRET"}
        command = self.command("--url", "https://example.com/")
        done = subprocess.run(command, env=env, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 4)
        self.assertIn(b"--secret-file", done.stderr)

    def test_log_file(self):
        function = self.function(answer(2, 502))
        log = self.folder / "log"
        code, output = self.run_callback("--url", function.url, "--log-file", str(log))
        self.assertEqual((code, output), (2, ""))
        self.assertRegex(log.read_text(), r"^\S+ \S+ ERROR: http://\S+, attempt 1: CONFIG_SWITCH_FAILED so it is")


if __name__ == "__main__":
    unittest.main()
