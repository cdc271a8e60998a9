"""A client made from ``protos/`` alone with stock grpcio-tools, as a stranger would make one.

Run as a process of its own: ``python generated_client.py PROTOS ADDRESS TOPIC``. It generates code
into a temporary folder, publishes three records, reads them back and prints what it read as JSON.
Nothing of Millstream is importable here: the process is started with ``-I`` and checks it.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def generate(protos: Path, out: Path) -> None:
    sources = [str(path) for path in sorted((protos / "millstream" / "v1").glob("*.proto"))]
    command = [sys.executable, "-I", "-m", "grpc_tools.protoc", "-I", str(protos)]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    subprocess.run([*command, *outputs, *sources], check=True)


def run(address: str, topic: str) -> list[dict[str, object]]:
    import grpc

    from millstream.v1 import broker_service_pb2 as broker
    from millstream.v1 import broker_service_pb2_grpc as broker_grpc
    from millstream.v1 import record_pb2 as record

    with grpc.insecure_channel(address) as channel:
        stub = broker_grpc.BrokerServiceStub(channel)
        published = stub.Publish(
            broker.PublishRequest(
                topic=topic,
                partition=0,
                records=[
                    broker.PublishRecord(key_text="a", value_text="first"),
                    broker.PublishRecord(
                        value=b"\xff\x00", headers=[record.Header(name="h", value=b"1")]
                    ),
                    broker.PublishRecord(key=b""),
                ],
            ),
            timeout=20,
        )
        assert [item.offset for item in published.records] == [0, 1, 2], published
        request = broker.SubscribeRequest(
            topic=topic,
            start=broker.Position(earliest=True),
            stop=broker.Position(latest=True),
            text=True,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                stream = stub.Subscribe(request, timeout=20)
                return [describe(item) for response in stream for item in response.records]
            except grpc.RpcError as error:
                # The topic has just been made, and its other partitions may still be opened.
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def describe(item: object) -> dict[str, object]:
    """What a record says, with null told apart from empty."""
    key_form = item.WhichOneof("key_form")
    value_form = item.WhichOneof("value_form")

    def shown(form: str | None) -> object:
        value = getattr(item, form) if form else None
        return value.hex() if isinstance(value, bytes) else value

    return {
        "partition": item.partition,
        "offset": item.offset,
        "key": shown(key_form),
        "value": shown(value_form),
        "headers": [[header.name, header.value.decode()] for header in item.headers],
    }


def main() -> None:
    protos, address, topic = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with tempfile.TemporaryDirectory() as folder:
        generate(protos, Path(folder))
        # An editable install would put the SDK on the path even in isolated mode: drop it.
        sys.path[:] = [entry for entry in sys.path if not entry.endswith("client_sdk/python")]
        sys.path.insert(0, folder)
        found = importlib.util.find_spec("millstream")
        assert found is not None
        assert found.submodule_search_locations
        assert all(place.startswith(folder) for place in found.submodule_search_locations)
        print(json.dumps(run(address, topic)))


if __name__ == "__main__":
    main()
