"""Frozen payloads: frames too large for slots, each behind its caption, the number of it.

    laneway lane create frames --slot-size 56 --slots 64 --pinning none \\
        --producer-uid $(id -u) --consumer-uid $(id -u)
    python frames.py SOCKET view frames &
    python frames.py SOCKET shoot frames 100 16384

A frame has so many KiB. Its file is the message: the viewer looks at the very bytes that the camera
sealed. `shm/examples/frozen_frames.rs` is the same in Rust, and may be either end.
"""

import sys

import laneway


def shoot(socket: str, lane: str, count: str, kib: str) -> None:
    # Either end may ask for the socket that the files travel on.
    with laneway.attach_producer(socket, lane=lane, lifeline=True) as camera:
        # What is sent to nobody yet dies with this process; what a viewer was sent does not.
        while camera.peer != "live":
            camera.maintain()
        for number in range(int(count)):
            pixel = number.to_bytes(8, "little")
            camera.send(pixel, timeout=30)
            camera.send_frozen(pixel * (int(kib) * 128), timeout=30)


def view(socket: str, lane: str) -> None:
    captions = frames = lost = 0
    with laneway.attach_consumer(socket, lane=lane) as viewer:
        while True:
            try:
                message = viewer.recv_any(timeout=30)
            except laneway.ClosedError:
                break
            except laneway.FrozenLostError:
                # Its camera died before this viewer was sent it.
                lost += 1
                continue
            if isinstance(message, bytes):
                if message != captions.to_bytes(8, "little"):
                    sys.exit(f"another caption: {message.hex()}")
                captions += 1
            else:
                with message as frame:
                    pixel = (frames + lost).to_bytes(8, "little")
                    if frame.view() != pixel * (len(frame) // 8):
                        sys.exit(f"frame {frames + lost} is of other pixels")
                    frames += 1
        print(f"{captions} captions, {frames} frames, {lost} lost, {viewer.position} slots")


if __name__ == "__main__":
    {"shoot": shoot, "view": view}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
