"""Receives what `producer.py` sends, checks every byte, and says how many messages there were.

    python consumer.py SOCKET TICKET
"""

import sys

import laneway

# The bytes behind the number follow from it.
TAILS = [bytes((number + i) % 256 for i in range(8, 56)) for number in range(256)]


def main() -> None:
    socket, ticket = sys.argv[1:]
    number = 0
    with laneway.attach_consumer(socket, ticket=ticket) as consumer:
        # The loop ends with the stream.
        for message in consumer:
            if message != number.to_bytes(8, "little") + TAILS[number % 256]:
                sys.exit(f"message {number} is another one: {message.hex()}")
            number += 1
    print(number)


if __name__ == "__main__":
    main()
