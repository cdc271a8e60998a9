"""A node's TLS files: what makes them its own, and how each mistake is told."""

import time
from pathlib import Path

import pytest

from millstream_server.runtime.node_name import NodeName, can_stand_in_names, named_node
from millstream_server.runtime.tls import NodeTls, TlsError, TlsFiles
from tests.fakes.authority import LOOPBACK, Authority, node_name

CLUSTER = "0b9c6b7e-8d0f-4c39-9c0d-6a3a52c5d0d1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def load(authority: Authority, issued: tuple[Path, Path], ca: Path | None = None) -> NodeTls:
    certificate, key = issued
    return NodeTls.load(TlsFiles(str(certificate), str(key), str(ca or authority.ca)), CLUSTER, 2)


def refusal(authority: Authority, issued: tuple[Path, Path], ca: Path | None = None) -> str:
    with pytest.raises(TlsError) as caught:
        load(authority, issued, ca)
    return str(caught.value)


def test_a_certificate_that_names_the_node_serves(authority: Authority) -> None:
    issued = authority.issue("node", node_name(CLUSTER, 2), *LOOPBACK)
    tls = load(authority, issued)
    assert tls.name == NodeName(CLUSTER, 2)
    assert tls.expires_at_s > time.time()
    assert issued[1].read_text() not in repr(vars(tls)["_credentials"]) + repr(tls)


@pytest.mark.parametrize(
    "names",
    [
        ["localhost"],
        [node_name(CLUSTER, 3)],
        [node_name("another", 2)],
        [node_name(CLUSTER, 2), node_name(CLUSTER, 3)],
        [f"*.{CLUSTER}.millstream.internal"],
    ],
    ids=["a host", "another node", "another cluster", "two nodes", "a wildcard"],
)
def test_a_certificate_of_somebody_else_is_refused(authority: Authority, names: list[str]) -> None:
    text = refusal(authority, authority.issue("node", *names))
    assert node_name(CLUSTER, 2) in text
    assert names[0] in text


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    issued = authority.issue("node", node_name(CLUSTER, 2), expired=True)
    assert "certificate has expired" in refusal(authority, issued)


def test_a_certificate_of_another_authority_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    issued = Authority(tmp_path / "other").issue("node", node_name(CLUSTER, 2))
    assert "unable to get local issuer" in refusal(authority, issued)


def test_the_key_of_another_certificate_is_refused(authority: Authority) -> None:
    certificate, _ = authority.issue("node", node_name(CLUSTER, 2))
    _, key = authority.issue("other", node_name(CLUSTER, 3))
    assert f"{key} is the key of another certificate" in refusal(authority, (certificate, key))


def test_files_that_are_missing_or_no_pem_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("node", node_name(CLUSTER, 2))
    missing = tmp_path / "missing.pem"
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"\x00 no certificate")
    assert refusal(authority, (missing, key)) == (
        f"cannot read tls.certificate.file {missing}: No such file or directory"
    )
    assert "cannot read tls.key.file" in refusal(authority, (certificate, missing))
    assert "cannot read tls.ca.file" in refusal(authority, (certificate, key), missing)
    assert str(garbage) in refusal(authority, (garbage, key))
    assert str(garbage) in refusal(authority, (certificate, garbage))
    assert str(garbage) in refusal(authority, (certificate, key), garbage)


def test_a_cluster_id_that_is_no_part_of_a_dns_name_is_told(authority: Authority) -> None:
    certificate, key = authority.issue("node")
    with pytest.raises(TlsError, match=r"cluster.id 'My_Cluster' cannot stand in certificates"):
        NodeTls.load(TlsFiles(str(certificate), str(key), str(authority.ca)), "My_Cluster", 2)


@pytest.mark.parametrize("good", ["a", "logs-1", CLUSTER, "x" * 63])
def test_cluster_ids_for_names(good: str) -> None:
    assert can_stand_in_names(good)
    assert named_node([str(NodeName(good, 7))]) == NodeName(good, 7)


@pytest.mark.parametrize("bad", ["", "-a", "a-", "a.b", "A", "x" * 64, "a_b", "ä", "a\n"])
def test_cluster_ids_that_names_cannot_hold(bad: str) -> None:
    assert not can_stand_in_names(bad)
    assert named_node([f"node-7.{bad}.millstream.internal"]) is None


@pytest.mark.parametrize("number", ["0", "07", "-1", "", "x", "٣", "1 "])
def test_node_ids_in_other_spellings_name_nobody(number: str) -> None:
    assert named_node([f"node-{number}.c.millstream.internal"]) is None
