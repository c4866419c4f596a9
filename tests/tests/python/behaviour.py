"""What the module promises, scenario by scenario, against a real agent.

    python behaviour.py SCENARIO SOCKET PRODUCER_TICKET CONSUMER_TICKET

The lane has 8 slots of 56 bytes, and no cores.
"""

import array
import os
import signal
import sys
import threading
import time

import laneway

SOON = 30


def raises(kind, call, *args, **named):
    """The exception that a call must raise."""
    try:
        found = call(*args, **named)
    except kind as error:
        return error
    raise AssertionError(f"{call} answered {found!r} and not {kind.__name__}")


def both(socket, tickets):
    producer = laneway.attach_producer(socket, ticket=tickets[0])
    return producer, laneway.attach_consumer(socket, ticket=tickets[1])


def meet(producer):
    """Waits for the news of the other end."""
    end = time.monotonic() + SOON
    while producer.peer != "live":
        assert time.monotonic() < end, producer.peer
        producer.maintain()


def messages(socket, tickets):
    """Every way to send and to receive."""
    producer, consumer = both(socket, tickets)
    assert consumer.poll() is None
    kinds = [b"bytes", bytearray(b"bytearray"), memoryview(b"xviewx")[1:5], b""]
    for message in kinds:
        producer.send(message, timeout=SOON)
        assert consumer.recv(timeout=SOON) == bytes(message)
    producer.send(array.array("H", [1, 2]), 0)
    assert array.array("H", consumer.recv()).tolist() == [1, 2]
    raises(TypeError, producer.send, "text")

    assert producer.send_many(iter([b"a", bytearray(b"b"), b"c" * 100])) == 3
    assert consumer.recv_many(2) == [b"a", b"b"]
    assert consumer.recv_many() == [b"c" * 100]
    raises(ValueError, consumer.recv_many, 0)
    assert consumer.poll() is None

    buffer = bytearray(6)
    producer.send(b"seven b")
    small = raises(laneway.BufferTooSmallError, consumer.recv_into, buffer)
    assert small.required == 7 and buffer == bytes(6)
    raises(TypeError, consumer.recv_into, b"constant")
    numbers = array.array("H", range(4))
    assert consumer.recv_into(numbers, timeout=SOON) == 7
    assert numbers.tobytes() == b"seven b\0"
    producer.send(b"part")
    assert consumer.recv_into(memoryview(buffer)[2:]) == 4 and buffer == b"\0\0part"


def errors(socket, tickets):
    """Every exception has its type, its numbers and a text that says what to do."""
    refused = raises(laneway.RefusedError, laneway.attach_producer, socket, ticket="0" * 32)
    assert refused.reason == "TICKET_INVALID" and "TICKET_INVALID" in str(refused)
    raises(laneway.RefusedError, laneway.attach_consumer, socket, lane="nowhere")
    raises(laneway.UnreachableError, laneway.attach_consumer, "/no/socket", lane="x")
    raises(ConnectionError, laneway.attach_consumer, "/no/socket", lane="x")
    raises(ValueError, laneway.attach_producer, socket, ticket="no ticket")
    raises(ValueError, laneway.attach_producer, socket)
    raises(ValueError, laneway.attach_producer, socket, ticket="0" * 32, lane="x")

    producer, consumer = both(socket, tickets)
    late = raises(laneway.TimedOutError, consumer.recv, timeout=0.01)
    assert isinstance(late, (TimeoutError, laneway.LanewayError)) and "no message" in str(late)
    for bad in (-1, float("nan")):
        raises(ValueError, consumer.recv, timeout=bad)
    raises(laneway.TooLargeError, producer.send, bytes(8 * 56 + 1))
    failed = raises(laneway.FullError, producer.send_many, [b""] * 9, timeout=0)
    assert failed.sent == 8
    raises(laneway.FullError, producer.send, b"", timeout=0)
    raises(laneway.TimedOutError, producer.send, b"", timeout=0.01)
    raises(laneway.TimedOutError, producer.close, timeout=0.01)
    assert consumer.recv_many() == [b""] * 8 and consumer.poll() is None
    wrong = raises(TypeError, producer.send_many, [b"sent", 7])
    assert wrong.sent == 1 and consumer.recv() == b"sent"

    producer.close()
    raises(laneway.ClosedError, consumer.recv)
    raises(laneway.ClosedError, consumer.poll)
    assert list(consumer) == []
    raises(laneway.LanewayError, producer.send, b"")
    producer.detach()
    consumer.detach()
    raises(laneway.LanewayError, consumer.recv)


def facts(socket, tickets):
    """Grant, positions, and what is known of the other end."""
    producer, consumer = both(socket, tickets)
    for end in (producer, consumer):
        end.maintain()
        grant = end.grant
        assert (grant.slot_payload_bytes, grant.slot_count) == (56, 8), grant
        assert grant.message_max_bytes == 8 * 56 and grant.page_bytes == 4096, grant
        assert grant.cpu is None and grant.pinning == "none", grant
        assert grant.relation is None, grant
        assert grant.grade in "ABCD" and grant.profile in ("latency", "throughput"), grant
        assert end.position == 0
    producer.send_many([b"1", b"2"])
    assert (producer.position, producer.lag) == (2, 2)
    assert consumer.recv() == b"1" and consumer.position == 1
    assert consumer.peer == "live" and producer.distance == "unknown"


def cores(socket, tickets):
    """What the cores of both ends have in common, in the agent's words, and how far that is."""
    producer = laneway.attach_producer(socket, ticket=tickets[0], pin=False)
    consumer = laneway.attach_consumer(socket, ticket=tickets[1], pin=False)
    print(producer.grant.relation, consumer.grant.relation, producer.distance, sep=", ")


def contexts(socket, tickets):
    """`with` ends the stream, unless it is left by an exception."""
    producer, consumer = both(socket, tickets)
    with consumer:
        with producer as same:
            assert same is producer
            producer.send_many([b"a", b"b"])
        assert list(consumer) == [b"a", b"b"]
        raises(laneway.ClosedError, consumer.recv)
    raises(laneway.LanewayError, consumer.poll)


def exception(socket, tickets):
    producer, consumer = both(socket, tickets)
    try:
        with producer:
            producer.send(b"half")
            raise KeyError("half way")
    except KeyError:
        pass
    assert consumer.recv() == b"half"
    raises(laneway.TimedOutError, consumer.recv, timeout=0.3)


def once_it_waits(consumer, act):
    """Runs `act` in a thread as soon as another thread is inside a call of the consumer."""

    def watch():
        try:
            while True:
                consumer.position
        except laneway.LanewayError as error:
            assert "another thread" in str(error)
            act()

    watcher = threading.Thread(target=watch)
    watcher.start()
    return watcher


def threads(socket, tickets):
    """A wait lets other threads run: here the one that ends it."""
    producer, consumer = both(socket, tickets)
    watcher = once_it_waits(consumer, lambda: producer.send(b"wake up"))
    assert consumer.recv() == b"wake up"
    watcher.join()


def interrupt(socket, tickets):
    """Ctrl-C ends a wait without a timeout."""
    # Whoever runs the tests in the background has it ignored, which is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _, consumer = both(socket, tickets)
    watcher = once_it_waits(consumer, lambda: os.kill(os.getpid(), signal.SIGINT))
    raises(KeyboardInterrupt, lambda: list(consumer))
    watcher.join()


def with_lifeline(socket, tickets):
    producer = laneway.attach_producer(socket, ticket=tickets[0], lifeline=True)
    consumer = laneway.attach_consumer(socket, ticket=tickets[1])
    # One thread plays both: what is sent before the news of the consumer goes out at a later call.
    meet(producer)
    return producer, consumer


def frozen(socket, tickets):
    """Payloads in order with messages, by the calls that take both and by those that do not."""
    producer, consumer = with_lifeline(socket, tickets)
    assert consumer.poll_any() is None and not consumer.skip_frozen()
    raises(laneway.TimedOutError, consumer.recv_any, timeout=0.01)
    large = bytes(range(256)) * 4096
    numbers = array.array("I", range(300000))
    grid = memoryview(large).cast("B", (1024, 1024))
    every_other = memoryview(large)[::2]
    for payload in (b"x", bytearray(large), numbers, grid, every_other):
        producer.send(b"caption", timeout=SOON)
        producer.send_frozen(payload, timeout=SOON)
        assert consumer.recv_any(timeout=SOON) == b"caption"
        with consumer.recv_any(timeout=SOON) as found:
            flat = memoryview(payload).tobytes()
            assert found.view() == flat and len(found) == len(flat), payload
            assert found.page_bytes in (4096, 2 << 20)
    for bad in (b"", "text", 7):
        raises((TypeError, ValueError), producer.send_frozen, bad)
    assert consumer.poll_any() is None

    # Whatever does not take one says so, and leaves it in the lane.
    producer.send(b"before")
    producer.send_frozen(b"y" * 5000)
    assert consumer.recv_many() == [b"before"]
    for call in (consumer.recv, consumer.poll, consumer.recv_many, lambda: next(consumer)):
        told = raises(laneway.IsFrozenError, call)
        assert (told.position, told.bytes_max) == (11, 8192) and "recv_any" in str(told)
    producer.send_frozen(b"z")
    assert consumer.skip_frozen()
    found = consumer.poll_any()
    assert bytes(found.view()) == b"z" and consumer.poll_any() is None

    # Sent on without a copy; a view outlives payload, ends and file, and nobody can write it.
    producer.send_frozen(found, timeout=SOON)
    again = consumer.recv_any(timeout=SOON)
    view = again.view()
    for payload in (found, again):
        payload.release()
        payload.release()
        for call in (payload.view, lambda: len(payload), lambda: producer.send_frozen(payload)):
            assert "released" in str(raises(laneway.LanewayError, call))
    assert view.readonly and view.obj is not None
    raises(TypeError, view.__setitem__, 0, 1)
    raises(TypeError, memoryview(view.obj).__setitem__, 0, 1)
    producer.detach()
    consumer.detach()
    assert view == b"z"
    child = os.fork()
    if child == 0:
        os._exit(0 if view == b"z" else 1)
    assert os.waitpid(child, 0)[1] == 0


def free_hugepages():
    with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") as free:
        return int(free.read())


def huge(socket, tickets):
    """A payload on hugepages is whole, and nothing is left of it when nobody looks any more."""
    producer, consumer = with_lifeline(socket, tickets)
    before = free_hugepages()
    producer.send_frozen(bytes(range(256)) * (3 << 12) + b"!", timeout=SOON)
    with consumer.recv_any(timeout=SOON) as payload:
        assert payload.page_bytes == 2 << 20 and free_hugepages() == before - 2
        view = payload.view()
    assert len(view) == (3 << 20) + 1 and view[-1:] == b"!" and view[:256] == bytes(range(256))
    view.release()
    producer.maintain()
    assert free_hugepages() == before, (free_hugepages(), before)


def in_flight(socket, tickets):
    """No more payloads are on their way than may be, and a wait for one ends with its release."""
    producer, consumer = with_lifeline(socket, tickets)
    payload = laneway.Frozen(b"w" * 10000)
    for _ in range(8):
        producer.send_frozen(payload)
    raises(laneway.FullError, producer.send_frozen, payload, timeout=0)
    late = raises(laneway.TimedOutError, producer.send_frozen, payload, timeout=0.25)
    assert "within 250ms" in str(late), late
    reader = threading.Timer(0.2, consumer.recv_any)
    reader.start()
    producer.send_frozen(payload, timeout=SOON)
    reader.join()
    assert consumer.skip_frozen()
    producer.close(timeout=SOON)
    for _ in range(7):
        assert consumer.recv_any().view() == b"w" * 10000
    raises(laneway.ClosedError, consumer.recv_any)
    raises(laneway.ClosedError, consumer.poll_any)


def lost(socket, tickets):
    """What a producer sent to nobody is told once, by its position."""
    producer = laneway.attach_producer(socket, ticket=tickets[0], lifeline=True)
    producer.send_frozen(b"v" * 5000)
    producer.send(b"after")
    producer.detach()
    consumer = laneway.attach_consumer(socket, ticket=tickets[1])
    told = raises(laneway.FrozenLostError, consumer.recv_any, timeout=SOON)
    assert (told.position, told.bytes_max) == (0, 8192)
    assert consumer.recv_any(timeout=SOON) == b"after"


def no_lifeline(socket, tickets):
    producer, consumer = both(socket, tickets)
    refused = raises(laneway.LanewayError, producer.send_frozen, b"u", timeout=SOON)
    assert "lifeline=True" in str(refused)
    producer.send(b"message")
    assert consumer.recv() == b"message"


def frozen_arrays(socket, tickets):
    """A payload as an array, without a copy."""
    import numpy

    producer, consumer = with_lifeline(socket, tickets)
    sent = numpy.arange(1 << 18, dtype="<f8").reshape(512, 512)
    producer.send_frozen(sent, timeout=SOON)
    found = numpy.frombuffer(consumer.recv_any(timeout=SOON).view(), "<f8").reshape(512, 512)
    assert (found == sent).all() and not found.flags.writeable
    producer.send_frozen(sent.T, timeout=SOON)
    found = numpy.frombuffer(consumer.recv_any(timeout=SOON).view(), "<f8").reshape(512, 512)
    assert (found == sent.T).all()


def fork(socket, tickets):
    """A forked child is told that the ends are not its own, and does no harm to them."""
    producer, consumer = both(socket, tickets)
    producer.send(b"before")
    child = os.fork()
    if child == 0:
        for call in (consumer.poll, consumer.detach, lambda: producer.send(b"child")):
            assert "fork" in str(raises(laneway.LanewayError, call))
        del producer, consumer
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    producer.send(b"after")
    assert consumer.recv_many() == [b"before", b"after"]


def arrays(socket, tickets):
    """Messages as one typed array."""
    import numpy

    producer, consumer = both(socket, tickets)
    prices = numpy.arange(6, dtype="<f8")
    producer.send_many([prices[:2], prices[2:], b""])
    found = consumer.recv_array("<f8", timeout=SOON)
    assert found.dtype == numpy.dtype("<f8") and (found == prices).all()
    found[0] = 7
    producer.send_many([b"12345678", b"odd"])
    assert consumer.recv_array(numpy.uint64).tolist() == [int.from_bytes(b"12345678", "little")]
    raises(ValueError, consumer.recv_array, "u8")
    assert consumer.recv() == b"odd"
    record = numpy.dtype([("price", "<i4"), ("size", "<u2")])
    rows = numpy.array([(-1, 2), (3, 4)], dtype=record)
    producer.send(rows)
    assert (consumer.recv_array(record, limit=1) == rows).all()
    raises(ValueError, consumer.recv_array, object)
    producer.close()
    raises(laneway.ClosedError, consumer.recv_array, "u1")


def held(socket, tickets):
    """A slow reader of a broadcast lane is waited for as long as the caller says."""
    producer, consumer = both(socket, tickets)
    meet(producer)
    producer.send_many([b"x"] * 8, timeout=SOON)
    began = time.monotonic()
    late = raises(laneway.TimedOutError, producer.send, b"y", timeout=0.35)
    assert time.monotonic() - began >= 0.35 and "reader 1 is 8 slots behind" in str(late)
    raises(laneway.FullError, producer.send, b"y", timeout=0)
    raises(laneway.FullError, producer.send_many, [b"y"], timeout=0)
    reader = threading.Timer(0.3, consumer.recv_many)
    reader.start()
    producer.send(b"y", timeout=SOON)
    reader.join()


def with_reader(socket, producer, reader):
    """A producer, and a reader that it knows."""
    producer = laneway.attach_producer(socket, ticket=producer)
    reader = laneway.attach_subscriber(socket, ticket=reader)
    meet(producer)
    return producer, reader


def overrun(socket, tickets):
    """A reader that is overrun gets whole messages, and each loss once with its number."""
    wrong = raises(laneway.LanewayError, laneway.attach_consumer, socket, ticket=tickets[1])
    assert "attach_subscriber" in str(wrong)
    producer, reader = with_reader(socket, tickets[0], tickets[2])
    raises(laneway.TimedOutError, reader.recv, timeout=0.1)
    assert reader.poll() is None and reader.lost == 0 and reader.peer == "live"
    assert reader.grant.slot_count == 8 and reader.grant.message_max_bytes == 8 * 56
    sent = [bytes([number]) * 8 for number in range(64)]
    producer.send_many(sent[:4])
    assert reader.recv(timeout=SOON) == sent[0] and reader.poll() == sent[1]
    assert reader.recv_many(timeout=SOON) == sent[2:4] and reader.position == 4
    raises(ValueError, reader.recv_many, 0)

    producer.send_many(sent[4:40])
    told = raises(laneway.LostError, reader.recv_many, timeout=SOON)
    assert told.slots == reader.lost > 0 and told.position == reader.position == 4 + told.slots
    assert reader.recv_many() == sent[told.position : 40]
    producer.send_many(sent[40:60])
    told = raises(laneway.LostError, lambda: list(reader))
    producer.close()
    assert list(reader) == sent[told.position : 60]
    raises(laneway.ClosedError, reader.recv)
    with reader:
        reader.maintain()
    raises(laneway.LanewayError, reader.poll)


def overrun_into(socket, tickets):
    """What a reader has no room for is there again, also when it was written over meanwhile."""
    producer, reader = with_reader(socket, *tickets[:2])
    buffer = bytearray(8)
    producer.send(b"nine byte")
    for timeout in (SOON, 0, None):
        small = raises(laneway.BufferTooSmallError, reader.recv_into, buffer, timeout)
        assert small.required == 9 and buffer == bytes(8)
    raises(TypeError, reader.recv_into, b"constant")
    producer.send_many([b"x"] * 30)
    assert reader.position == 0 and reader.recv_into(bytearray(10)) == 9
    told = raises(laneway.LostError, reader.recv_into, buffer)
    assert told.slots > 0 and told.position == reader.position == 1 + told.slots
    while reader.position < 31:
        assert reader.recv_into(buffer) == 1 and buffer == b"x" + bytes(7)
    raises(laneway.TimedOutError, reader.recv_into, buffer, timeout=0.01)
    numbers = array.array("H", range(4))
    watcher = once_it_waits(reader, lambda: producer.send(array.array("H", [7, 8])))
    assert reader.recv_into(numbers) == 4 and numbers.tolist() == [7, 8, 2, 3]
    watcher.join()


def overrun_arrays(socket, tickets):
    """Messages as one typed array, with nothing missing in it: a loss is told between two."""
    import numpy

    producer, reader = with_reader(socket, *tickets[:2])
    ticks = numpy.arange(64, dtype="<u8")
    producer.send_many([ticks[:1], ticks[1:3], b"", b"odd", ticks[3:4]])
    found = reader.recv_array("<u8", timeout=SOON)
    assert found.dtype == ticks.dtype and found.tolist() == [0, 1, 2]
    found[0] = 7
    raises(ValueError, reader.recv_array, "<u8")
    assert reader.position == 3 and reader.recv() == b"odd"
    raises(ValueError, reader.recv_array, object)
    raises(ValueError, reader.recv_array, "<u8", 0)
    producer.send_many(ticks[index] for index in range(4, 64))
    told = raises(laneway.LostError, reader.recv_array, "<u8")
    lost = told.slots
    assert reader.recv_array("<u8", limit=2).tolist() == [3 + lost, 4 + lost]
    producer.close()
    assert (reader.recv_array("<u8") == ticks[5 + lost :]).all()
    raises(laneway.ClosedError, reader.recv_array, "<u8")


def evicted(socket, tickets):
    """A reader beyond its budget is told once and goes on; one from the start finds the oldest."""
    producer = laneway.attach_producer(socket, ticket=tickets[0])
    producer.send_many([b"before"] * 3)
    reader = laneway.attach_subscriber(socket, ticket=tickets[1], oldest=True)
    meet(producer)
    assert reader.recv(timeout=SOON) == b"before" and reader.position == 1
    producer.send_many([b"x"] * 40)
    told, count = [], 0
    while count + reader.lost < 42:
        try:
            count += len(reader.recv_many(timeout=SOON))
        except (laneway.GivenUpError, laneway.LostError) as error:
            told.append(type(error))
    assert told.count(laneway.GivenUpError) == 1 and laneway.LostError in told, told


def bare(socket, tickets):
    """Without numpy the one function that needs it says so."""
    sys.modules["numpy"] = None
    _, consumer = both(socket, tickets)
    missing = raises(ImportError, consumer.recv_array, "u8")
    assert "pip install numpy" in str(missing)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], sys.argv[3:])
