"""Reading how Envoy is to reach the picker over TLS, with errors that name the option."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import NoReturn

import typer

from xds.translate import PickerTls

CA = "--picker-tls-ca"
CERTIFICATE = "--picker-tls-certificate"
KEY = "--picker-tls-key"
NAME = "--picker-tls-name"

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def read_picker_tls(
    ca: Path | None, certificate: Path | None, key: Path | None, name: str | None
) -> PickerTls | None:
    """None: plain text. What cannot be used is refused here: Envoys would refuse it one by one."""
    if ca is None:
        if certificate is not None or key is not None or name is not None:
            _refuse(CA, f"TLS to the picker needs {CA} too")
        return None
    trusted = _pem(ca, "CERTIFICATE", CA)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=trusted)
    except ssl.SSLError as error:
        _refuse(CA, f"{ca} cannot be used: {error}")
    if certificate is None or key is None:
        if certificate is not None:
            _refuse(KEY, f"{CERTIFICATE} needs {KEY} too")
        if key is not None:
            _refuse(CERTIFICATE, f"{KEY} needs {CERTIFICATE} too")
        chain = private = None
    else:
        chain = _pem(certificate, "CERTIFICATE", CERTIFICATE)
        private = _pem(key, "PRIVATE KEY", KEY)
        try:
            # Asked for a passphrase, OpenSSL would ask the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                certificate, key, password=lambda: ""
            )
        except OSError as error:
            _refuse(CERTIFICATE, f"{certificate} and {key} cannot be used: {error}")
    try:
        return PickerTls(trusted, chain, private, name)
    except ValueError as error:
        _refuse(NAME, str(error))


def _pem(path: Path, kind: str, option: str) -> str:
    """What a file holds of this kind, and nothing else: a key may stand beside its certificate."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError as error:
        _refuse(option, f"{path}: {error.strerror}")
    blocks = [found[0] for found in _BLOCK.finditer(text) if found[1].endswith(kind)]
    if not blocks:
        _refuse(option, f"{path} is not PEM with a {kind.lower()}")
    return "\n".join(blocks) + "\n"


def _refuse(option: str, message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=option)
