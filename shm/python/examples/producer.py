"""Sends numbered messages of 56 bytes and ends the stream.

    python producer.py SOCKET TICKET COUNT
"""

import sys

import laneway

# The bytes behind the number follow from it.
TAILS = [bytes((number + i) % 256 for i in range(8, 56)) for number in range(256)]


def messages(count: int):
    for number in range(count):
        yield number.to_bytes(8, "little") + TAILS[number % 256]


def main() -> None:
    socket, ticket, count = sys.argv[1:]
    # Leaving the block ends the stream; leaving it by an exception does not.
    with laneway.attach_producer(socket, ticket=ticket) as producer:
        producer.send_many(messages(int(count)), timeout=30)


if __name__ == "__main__":
    main()
