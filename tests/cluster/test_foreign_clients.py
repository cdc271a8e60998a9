"""People without our SDK: a client generated from the protos alone, and a gRPC command line."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.embedded import EmbeddedNode

ROOT = Path(__file__).resolve().parents[2]


def test_a_client_generated_from_the_protos_publishes_and_subscribes(
    shared_node: EmbeddedNode, tmp_path: Path
) -> None:
    script = ROOT / "tests" / "conformance" / "generated_client.py"
    arguments = [str(ROOT / "protos"), shared_node.address, "generated"]
    done = subprocess.run(
        [sys.executable, "-I", str(script), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"partition": 0, "offset": 0, "key": "a", "value": "first", "headers": []},
        {"partition": 0, "offset": 1, "key": None, "value": "ff00", "headers": [["h", "1"]]},
        {"partition": 0, "offset": 2, "key": "", "value": None, "headers": []},
    ]


def curl(node: EmbeddedNode, method: str, request: object) -> list[dict[str, object]]:
    """Call by reflection; the answers as JSON documents."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    done = subprocess.run(
        [
            buf,
            "curl",
            "--http2-prior-knowledge",
            "--protocol",
            "grpc",
            "--data",
            json.dumps(request),
            f"http://{node.address}/millstream.v1.{method}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decoder, text, out = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        document, end = decoder.raw_decode(text)
        out.append(document)
        text = text[end:].lstrip()
    return out


def test_a_command_line_works_by_reflection(shared_node: EmbeddedNode) -> None:
    created = curl(
        shared_node, "MetadataService/CreateTopic", {"name": "curl", "partitionCount": 1}
    )
    assert created[0]["topic"]["name"] == "curl"
    records = [
        {"keyText": "k", "valueText": "hello"},
        {"value": base64.b64encode(b"\xff").decode()},
    ]
    published = curl(
        shared_node, "BrokerService/Publish", {"topic": "curl", "partition": 0, "records": records}
    )
    assert published[0]["durability"] == "DURABILITY_REPLICATED_DISK"
    request = {
        "topic": "curl",
        "start": {"earliest": True},
        "stop": {"latest": True},
        "text": True,
    }
    answers = curl(shared_node, "BrokerService/Subscribe", request)
    got = [record for answer in answers for record in answer["records"]]
    assert [record.get("valueText", record.get("value")) for record in got] == ["hello", "/w=="]


def test_health_is_served_by_reflection_too(shared_node: EmbeddedNode) -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    done = subprocess.run(
        [
            buf,
            "curl",
            "--http2-prior-knowledge",
            "--protocol",
            "grpc",
            "--data",
            '{"service": "ready"}',
            f"http://{shared_node.address}/grpc.health.v1.Health/Check",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stderr)
    assert json.loads(done.stdout) == {"status": "SERVING"}
