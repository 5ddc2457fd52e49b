"""Certificates for tests, made by the openssl command."""
import os
import pathlib
import subprocess
import tempfile


class Authority:
    """A certificate authority in a folder: `ca` is its certificate's path."""

    def __init__(self, folder, name="test authority"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = self.folder / "ca.key"
        self.ca = self.folder / "ca.pem"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key)
        _openssl("req", "-x509", "-new", "-key", self.key, "-subj", f"/CN={name}", "-days", 3650,
                 "-out", self.ca)

    def issue(self, name, hosts="DNS:localhost,IP:127.0.0.1,IP:::1", days=365):
        """(certificate, key) paths; `days` below 0: it has expired."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        with tempfile.TemporaryDirectory() as scratch:
            request = pathlib.Path(scratch) / "request"
            extensions = pathlib.Path(scratch) / "extensions"
            extensions.write_text(f"subjectAltName={hosts}\n")
            _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
            _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key,
                     "-set_serial", str(int.from_bytes(os.urandom(8), "big") >> 1), "-days", days,
                     "-extfile", extensions, "-out", certificate)
        return certificate, key


def self_signed(folder, name, hosts="DNS:localhost,IP:127.0.0.1"):
    """(certificate, key) paths."""
    certificate, key = pathlib.Path(folder) / f"{name}.pem", pathlib.Path(folder) / f"{name}.key"
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-subj", f"/CN={name}", "-addext", f"subjectAltName={hosts}",
             "-days", 365, "-out", certificate)
    return certificate, key


def _openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
