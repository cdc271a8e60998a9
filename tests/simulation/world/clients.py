"""Clients of the simulated cluster: the real async producer, and a reader that speaks `Fetch`.

Everything that they do and see goes to the history, from which the checker judges.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from millstream._client import methods
from millstream._client.async_io import AsyncClient
from millstream._client.config import ClientConfig
from millstream._errors import MillstreamError, UnavailableError
from millstream._fetch.decode import BatchDamage, decode_batch
from millstream._producer.async_producer import AsyncProducer
from millstream.record.wire import RawFetchResponse
from millstream.v1 import broker_service_pb2 as pb
from tests.checker.history import History, Send
from tests.simulation.world.channel import SimChannel
from tests.simulation.world.process import Process
from tests.simulation.world.world import World

_CREDIT_BYTES = 256 * 1024
_FETCH_PATH = "/millstream.v1.BrokerService/Fetch"
_RETRY_S = 0.1
# Between two questions for the end of a partition, on average.
_ASK_S = 0.4
NO_ERROR = 0


def client_process(world: World, name: str) -> Process:
    """A process on a host of its own."""
    process = world.process(name, name)
    world.clients.append(process)
    return process


def opener(world: World, process: Process) -> Callable[[str, Any], Any]:
    """Channels on the simulated network, for the SDK."""
    return lambda address, options: SimChannel(world.network, process, address, options)


class Writer:
    """Sends values that are unique per partition, and notes what became of each."""

    def __init__(
        self,
        world: World,
        history: History,
        number: int,
        topic: str,
        partitions: int,
        *,
        acks: str = "all",
        idempotent: bool = True,
        pause_s: float = 0.05,
        bytes_max: int = 40,
        linger_in_flight_ms: int = 0,
        acknowledged: Callable[[Send], None] = lambda send: None,
    ) -> None:
        self.world = world
        self.history = history
        self.number = number
        self.topic = topic
        self.partitions = partitions
        self.idempotent = idempotent
        self._acks = acks
        self._linger_in_flight_ms = linger_in_flight_ms
        self._pause_s = pause_s
        self._bytes_max = bytes_max
        self._acknowledged = acknowledged
        self.process = client_process(world, f"writer{number}")
        self.stopping = False
        self.stopped = False
        self.fatal: MillstreamError | None = None
        self._sent = 0
        self._open = 0

    def start(self) -> None:
        """Begin to send."""
        self.process.spawn(self._main())

    async def _main(self) -> None:
        try:
            while not self.stopping:
                await self._with_producer()
        finally:
            self.stopped = True

    def _producer(self) -> AsyncProducer:
        return AsyncProducer(
            bootstrap_servers=",".join(machine.address for machine in self.world.brokers),
            acks=self._acks,
            enable_idempotence=self.idempotent,
            linger_ms=5,
            linger_in_flight_ms=self._linger_in_flight_ms,
            request_timeout_ms=5_000,
            delivery_timeout_ms=20_000,
            max_block_ms=10_000,
            default_api_timeout_ms=10_000,
            retries=2_147_483_647 if self.idempotent else 0,
            tune_malloc=False,
            clock=self.process,
            chance=self.process.random,
            open_channel=opener(self.world, self.process),
        )

    async def _with_producer(self) -> None:
        """One producer until it is fatally wrong, or all is sent."""
        producer = self._producer()
        try:
            await producer.start()
        except MillstreamError:
            await asyncio.sleep(_RETRY_S)
            return
        self.fatal = None
        random = self.process.random
        while not self.stopping and self.fatal is None:
            for _ in range(random.choice((1, 1, 1, 2, 5))):
                await self._send(producer, random.randrange(self.partitions))
            await asyncio.sleep(random.expovariate(1 / self._pause_s))
        await producer.close()

    async def _send(self, producer: AsyncProducer, partition: int) -> None:
        self._sent += 1
        value = f"{self.number}.{self._sent}"
        send = self.history.invoke_send(
            self.number, (self.topic, partition), value, self.world.loop.now, self.idempotent
        )
        try:
            receipt = await producer.send(
                self.topic,
                value + "-" * self.process.random.randrange(self._bytes_max),
                partition=partition,
            )
        except MillstreamError as error:
            self._failed(send, error)
            await asyncio.sleep(_RETRY_S)
            return
        self._open += 1
        task = asyncio.get_running_loop().create_task(self._note(send, receipt))
        # Kept by the process; named for whoever looks.
        task.set_name(f"send {value}")

    async def _note(self, send: Send, receipt: Any) -> None:
        try:
            metadata = await receipt
        except MillstreamError as error:
            self._failed(send, error)
        else:
            self.history.acknowledge(
                send, metadata.offset, metadata.durability.name, self.world.loop.now
            )
            self.world.count("acknowledged")
            self._acknowledged(send)
        finally:
            self._open -= 1

    def _failed(self, send: Send, error: MillstreamError) -> None:
        if error.fatal:
            self.fatal = error
        self.world.count(f"send_error_{error.code}")
        if error.indeterminate:
            self.history.unknown(send, error.code, self.world.loop.now)
        else:
            self.history.fail(send, error.code, self.world.loop.now)


class Reader:
    """Reads one partition from its beginning, through whatever happens, to where it is told."""

    def __init__(
        self, world: World, history: History, number: int, topic: str, partition: int
    ) -> None:
        self.world = world
        self.history = history
        self.number = number
        self.topic = topic
        self.partition = partition
        self._name = f"reader{number}"
        self.process = client_process(world, self._name)
        self.next_offset = 0
        # Read so far, and the reader may stop there.
        self.until: int | None = None
        self.done = False
        self.last_error = ""
        self._last_epoch: int | None = None

    def start(self) -> None:
        """Begin to read."""
        self.process.spawn(self._main())

    @property
    def finished(self) -> bool:
        """True once everything asked for was read."""
        return self.until is not None and self.next_offset >= self.until

    async def _main(self) -> None:
        client = AsyncClient(
            ClientConfig.resolve(
                None,
                bootstrap_servers=",".join(machine.address for machine in self.world.brokers),
                default_api_timeout_ms=10_000,
                request_timeout_ms=3_000,
            ),
            clock=self.process,
            chance=self.process.random,
            open_channel=opener(self.world, self.process),
        )
        while True:
            try:
                await client.start()
                break
            except MillstreamError:
                await asyncio.sleep(_RETRY_S)
        self.process.spawn(self._ask_ends(client))
        while not self.done:
            try:
                await self._read_once(client)
            except (MillstreamError, grpc.RpcError) as error:
                self.last_error = str(error)[:200]
            except TimeoutError:
                self.last_error = "silence"
            if not self.done:
                await asyncio.sleep(_RETRY_S * self.process.random.uniform(0.5, 1.5))
        await client.close()

    async def _ask_ends(self, client: AsyncClient) -> None:
        """Ask any broker for the end of the partition, now and then; it must not go back (18)."""
        random = self.process.random
        query = pb.OffsetQuery(
            topic=self.topic, partition=self.partition, position=pb.Position(latest=True)
        )
        while not self.done:
            await asyncio.sleep(random.expovariate(1 / _ASK_S))
            begun = self.history.next_line()
            try:
                answer = await client.call(
                    methods.LIST_OFFSETS,
                    pb.ListOffsetsRequest(queries=[query]),
                    address=random.choice(self.world.brokers).address,
                    timeout_ms=1_000,
                )
            except MillstreamError:
                continue
            found = answer.answers[0]
            if found.error:
                self.world.count("ends_refused")
            else:
                self.world.count("ends_told")
                self.history.saw_end(f"{self._name} asks", self._key, found.offset, begun)

    async def _read_once(self, client: AsyncClient) -> None:
        topic = await client.topic(self.topic)
        node, epoch = client.cluster.leader(topic.topic_id, self.partition)
        stream = client.open_stream(
            _FETCH_PATH,
            node.address,
            pb.FetchRequest.SerializeToString,
            RawFetchResponse.FromString,
        )
        try:
            request = pb.FetchRequest(credit_bytes=_CREDIT_BYTES)
            position = request.positions.add(
                topic_id=topic.topic_id,
                partition=self.partition,
                offset=self.next_offset,
                token=1,
                leader_epoch=epoch,
            )
            if self._last_epoch is not None:
                position.last_epoch = self._last_epoch
            await stream.write(request)
            while not self.done:
                async with asyncio.timeout(3.0 + self.process.random.random()):
                    response = await stream.read()
                if response is grpc.aio.EOF:
                    return
                size = self.take(response)
                if size is None:
                    return
                if size:
                    await stream.write(pb.FetchRequest(credit_bytes=size))
        except asyncio.InvalidStateError:
            return
        finally:
            stream.cancel()

    def take(self, response: Any) -> int | None:
        """Note what was read. Bytes of it; None if the partition cannot be read there any more."""
        size = 0
        for entry in response.partitions:
            if entry.error != NO_ERROR:
                self.last_error = entry.message
                self.world.count("reads_refused")
                if entry.HasField("truncated_offset"):
                    self._truncated(entry.truncated_offset)
                elif entry.log_start_offset > self.next_offset:
                    self._begin_at(entry.log_start_offset)
                return None
            for data in entry.batches:
                size += len(data)
                self._take_batch(bytes(data))
            if entry.batches and self.next_offset > entry.high_watermark:
                text = f"{self._key}: {self.next_offset} while the mark is {entry.high_watermark}"
                self.history.note_anomaly("read-above-mark", text)
        return size

    def _truncated(self, offset: int) -> None:
        """The log ends below what was read: begin anew there. The checker sees what was lost."""
        self.world.count("truncations_seen")
        self._begin_at(offset)

    def _begin_at(self, offset: int) -> None:
        """Go on elsewhere: below what was read, or behind what was deleted before it was."""
        self.next_offset = offset
        self._last_epoch = None
        self.history.assign(self._name, (self._key,))

    @property
    def _key(self) -> tuple[str, int]:
        return (self.topic, self.partition)

    def _take_batch(self, data: bytes) -> None:
        try:
            decoded = decode_batch(
                self._key, data, self.next_offset, log_append_time=False, check_crcs=True
            )
        except BatchDamage as error:
            self.history.note_anomaly("corrupt-read", f"{self._key}: {error}")
            raise UnavailableError("what was read is damaged") from error
        self._last_epoch = decoded.leader_epoch
        seen = [(one.offset, (one.value or b"").decode().rstrip("-")) for one in decoded.records]
        if seen:
            self.history.poll(self._name, {self._key: seen}, self.world.loop.now)
            self.world.count("read", len(seen))
        self.next_offset = decoded.next_offset
