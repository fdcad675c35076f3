"""Which certificates Envoy would take, and that nothing of a key is ever shown."""

import base64
import datetime
import logging
from collections.abc import Callable

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from pools.assemble import assemble
from pools.catalog import Catalog
from pools.certificates import examine
from pools.manifests import Manifest, read_text
from pools.model import ObjectName, TlsCertificate, World
from tests.certificates import END, PrivateKey
from tests.pools.pairs import GATEWAY, Pair, good_pair, pair

TLS = ObjectName("default", "tls")


def read(document: object) -> Manifest:
    [manifest] = read_text(yaml.safe_dump(document), "secret.yaml").manifests
    return manifest


def certificate(manifest: Manifest) -> TlsCertificate:
    assert isinstance(manifest.object, TlsCertificate)
    return manifest.object


@pytest.mark.parametrize(
    "private",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
    ],
)
def test_a_certificate_with_its_key_is_taken_as_it_is(
    private: Callable[[], PrivateKey],
) -> None:
    made = pair(private())
    manifest = read(made.secret())
    one = certificate(manifest)
    assert manifest.problems == ()
    assert manifest.key == ("Secret", TLS)
    assert (one.chain, one.key, one.problem) == (made.chain, made.key, "")
    assert one.expires == END.timestamp()


def test_a_chain_begins_with_the_certificate_of_the_key() -> None:
    own, authority = pair(), pair()
    assert examine(own.chain + authority.chain, own.key).problem == ""
    assert examine(authority.chain + own.chain, own.key).problem == (
        "tls.crt must begin with the certificate that tls.key belongs to"
    )


def test_a_pair_that_envoy_would_refuse_is_told() -> None:
    good = good_pair()
    assert examine(good.chain, pair().key).problem == (
        "tls.key does not belong to the certificate in tls.crt"
    )
    assert examine(b"", good.key).problem == "tls.crt is no chain of certificates in PEM"
    assert examine(good.chain, good.chain).problem == "tls.key is no private key in PEM"
    locked = pair(passphrase=b"open sesame")
    assert examine(locked.chain, locked.key).problem == (
        "tls.key is encrypted: store it without a passphrase"
    )
    short = pair(rsa.generate_private_key(65537, 1024))
    assert examine(short.chain, short.key).problem == (
        "tls.key is an RSA key of less than 2048 bits"
    )
    odd = pair(ec.generate_private_key(ec.SECP256K1()))
    assert examine(odd.chain, odd.key).problem == (
        "tls.key is on another curve than P-256, P-384 and P-521"
    )


@given(chain=st.binary(max_size=200), key=st.binary(max_size=200), cut=st.integers(0, 300))
def test_whatever_is_in_a_secret_it_is_a_finding_and_no_crash(
    chain: bytes, key: bytes, cut: int
) -> None:
    good = good_pair()
    assert examine(chain, good.key).problem
    assert examine(good.chain, key).problem
    assert examine(good.chain[:cut] + chain, good.key[:cut] + key).problem


def damaged(pem: bytes, old: bytes, new: bytes) -> bytes:
    """PEM in whose DER something stands in place of something else."""
    first, *lines, last = pem.splitlines()
    der = base64.b64decode(b"".join(lines))
    assert old in der
    return b"\n".join((first, base64.b64encode(der.replace(old, new)), last, b""))


def test_what_only_the_library_takes_for_exceptional_is_a_finding_too() -> None:
    """The API server looks into no certificate, and every Secret of the type is read."""
    good = good_pair()
    version_5 = damaged(good.chain, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05")
    year_0 = damaged(good.chain, b"20900101000000Z", b"00000101000000Z")
    for chain in (version_5, year_0):
        assert examine(chain, good.key).problem == "tls.crt is no chain of certificates in PEM"
    edwards = pair(ed25519.Ed25519PrivateKey.generate())
    too_short_for_its_type = damaged(edwards.key, b"\x2b\x65\x70", b"\x2b\x65\x6f")
    assert examine(edwards.chain, too_short_for_its_type).problem == (
        "tls.key is no private key in PEM"
    )


def test_a_secret_that_cannot_be_used_names_the_field_and_stays_in_the_value() -> None:
    secret = good_pair().secret()
    secret["data"]["tls.key"] = "not base64!"
    manifest = read(secret)
    one = certificate(manifest)
    assert (one.chain, one.key, one.problem) == (b"", b"", "tls.key is not base64")
    assert [(p.field, p.message) for p in manifest.problems] == [("data.tls.key", "is not base64")]
    del secret["data"]["tls.crt"]
    assert certificate(read(secret)).problem == "tls.crt is required"
    del secret["data"]
    assert [p.field for p in read(secret).problems] == ["data.tls.crt"]


def test_string_data_wins_and_other_secrets_are_left_unread() -> None:
    good = good_pair()
    secret = pair().secret()
    secret["stringData"] = {"tls.crt": good.chain.decode(), "tls.key": good.key.decode()}
    assert certificate(read(secret)).chain == good.chain
    assert not read_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ntype: Opaque\nstringData: {a: 1}\n", "f"
    ).manifests


def worlds(*texts: str, now: float = 0.0) -> list[World]:
    """What a directory with one file says, one text after the other."""
    catalog = Catalog()
    made = []
    for number, text in enumerate(texts):
        catalog.update({"f.yaml": read_text(text, "f.yaml")}, float(number))
        made.append(assemble(catalog.objects(), None, catalog.problems(), now=now))
    return made


def test_a_certificate_that_is_renewed_badly_stays_and_one_that_never_was_good_tells_why() -> None:
    good = good_pair()
    broken = Pair(good.chain, pair().key)
    first, second, third = worlds(
        *(GATEWAY + "---\n" + yaml.safe_dump(one.secret()) for one in (good, broken, good))
    )
    assert first.certificates[TLS].chain == second.certificates[TLS].chain == good.chain
    assert (first.problems, third.problems) == ((), ())
    assert ["data.tls.key: does not belong to the certificate in tls.crt (the last good version"
            " stays in effect)" in str(one) for one in second.problems] == [True]  # fmt: skip
    [never] = worlds(GATEWAY + "---\n" + yaml.safe_dump(broken.secret()))
    assert never.certificates[TLS].problem


def test_a_certificate_that_has_expired_is_a_warning_and_is_served() -> None:
    end = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    text = GATEWAY + "---\n" + yaml.safe_dump(pair(end=end).secret())
    [before] = worlds(text, now=end.timestamp() - 1)
    [after] = worlds(text, now=end.timestamp())
    assert before.problems == ()
    assert [(one.severity, one.message) for one in after.problems] == [
        ("warning", "expired at 2026-01-01T00:00:00Z: clients will refuse it; renew it")
    ]
    assert after.certificates[TLS].problem == ""


def test_a_certificate_that_no_listener_names_is_not_in_the_world() -> None:
    [world] = worlds(yaml.safe_dump(good_pair().secret()))
    assert world.certificates == {}


@pytest.mark.parametrize("damage", ["none", "key", "base64", "type", "cut"])
def test_nothing_of_a_key_is_in_any_message_or_representation(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = good_pair()
    secret = good.secret()
    text = yaml.safe_dump(secret)
    encoded = secret["data"]["tls.key"]
    if damage == "key":
        secret["data"]["tls.crt"] = base64.b64encode(pair().chain).decode()
    elif damage == "base64":
        secret["data"]["tls.key"] = encoded + "!"
    elif damage == "type":
        secret["data"]["tls.key"] = [encoded]
    text = GATEWAY + "---\n" + yaml.safe_dump(secret)
    if damage == "cut":
        text = text.replace("tls.key: ", "tls.key: '")
    [world] = worlds(text)
    said = caplog.text + repr(world) + "".join(map(str, world.problems))
    lines = [*good.key.decode().splitlines()[1:-1], encoded[40:80], encoded[-40:]]
    assert not [line for line in lines if line in said]
    assert (damage == "none") == (world.problems == ())
