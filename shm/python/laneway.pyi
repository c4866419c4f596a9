"""Private shared-memory lanes between two processes of one node."""

from collections.abc import Iterable
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Optional, Union, final

# Anything that `memoryview` takes: before Python 3.12 there is no name for it.
_Buffer = Any
_Socket = Union[str, "PathLike[str]"]
_Peer = Literal["absent", "live", "gone"]

__version__: str

class LanewayError(Exception):
    """Every error of a lane is one."""

class TimedOutError(LanewayError, TimeoutError):
    """The time ran out; the text says what is known of the other end."""

class ClosedError(LanewayError):
    """The producer ended the stream, and everything before the end was received."""

class RevokedError(LanewayError):
    """The agent took the lane away."""

class CorruptError(LanewayError):
    """The other end broke the protocol. The end stays unusable."""

class RefusedError(LanewayError):
    """The agent refused the attach."""

    reason: str
    """The fixed word of the refusal, such as ``TICKET_INVALID``."""

class UnreachableError(LanewayError, ConnectionError):
    """The agent cannot be reached."""

class TooLargeError(LanewayError, ValueError):
    """The message can never fit into this lane."""

class FullError(LanewayError):
    """No room now, and the timeout was 0."""

class BufferTooSmallError(LanewayError, ValueError):
    """The next message is longer than the buffer; it stays in the lane."""

    required: int
    """Its length, in bytes."""

class IsFrozenError(LanewayError):
    """The next message is a frozen payload; it stays in the lane for ``recv_any``."""

    position: int
    """Position of its slot."""
    bytes_max: int
    """Its length in whole pages of 4 KiB, in bytes."""

class FrozenLostError(LanewayError):
    """A frozen payload will never come; the next call goes on behind it."""

    position: int
    """Position of its slot."""
    bytes_max: int
    """Its length in whole pages of 4 KiB, in bytes."""

class LostError(LanewayError):
    """The producer of a broadcast lane was faster; the next call goes on behind the loss."""

    slots: int
    """Slots that are gone; a message of one slot is one of them."""
    position: int
    """Position of the next message."""

class GivenUpError(LanewayError):
    """This reader is beyond the lane's budget. Told once; it goes on, and is told what it loses."""

    position: int
    """Position of the next message."""

@final
class Grant:
    """What the agent granted to an end."""

    @property
    def message_max_bytes(self) -> int: ...
    @property
    def segment_bytes(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def slot_payload_bytes(self) -> int: ...
    @property
    def slot_count(self) -> int: ...
    @property
    def cpu(self) -> Optional[int]: ...
    @property
    def grade(self) -> str: ...
    @property
    def parks(self) -> bool: ...
    @property
    def profile(self) -> Literal["latency", "throughput"]: ...
    @property
    def pinning(self) -> Literal["none", "self", "enforced"]: ...
    @property
    def relation(
        self,
    ) -> Literal["same cpu", "same core", "same L2", "same L3", "same node", "other node", None]:
        """What the cores of both ends have in common; ``None`` if an end has no core."""

@final
class Frozen:
    """A payload that nobody can change any more, the sender included. Leaving ``with`` releases it."""

    def __new__(cls, payload: _Buffer) -> Frozen:
        """Copies a bytes-like object of 1 byte to 1 GiB, from 1 MiB on into hugepages if there are
        any, and seals the copy."""
    def view(self) -> memoryview:
        """The payload's bytes, read-only and not copied; they stay as long as a view does."""
    @property
    def page_bytes(self) -> int:
        """Size of the pages that the payload lies on."""
    def release(self) -> None:
        """Lets go of the payload. Views that are still there stay what they are."""
    def __len__(self) -> int: ...
    def __enter__(self) -> Frozen: ...
    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> bool: ...

@final
class Producer:
    """The producer's end of a lane. One thread at a time uses it."""

    def send(self, message: _Buffer, timeout: Optional[float] = None) -> None:
        """Sends one bytes-like object, waiting for room at most ``timeout`` seconds."""
    def send_many(self, messages: Iterable[_Buffer], timeout: Optional[float] = None) -> int:
        """Sends in order, waiting for room at most ``timeout`` seconds for each.

        Returns how many; an error has the number as its attribute ``sent``.
        """
    def send_frozen(
        self, payload: Union[Frozen, _Buffer], timeout: Optional[float] = None
    ) -> None:
        """Sends a ``Frozen``, or a copy of a bytes-like object, as a file of its own.

        Waits at most ``timeout`` seconds for room, and for earlier payloads to be released. One end
        of the lane must have been attached with ``lifeline=True``.
        """
    @property
    def grant(self) -> Grant: ...
    @property
    def peer(self) -> _Peer: ...
    @property
    def distance(self) -> Literal["unknown", "near", "far"]:
        """How far the consumer is: as the agent says, and then as the time says in which its cursor
        comes, looked at where messages take slots of 16 KiB or more, and in rings from 256 KiB on
        of slots up to 256 bytes."""
    @property
    def position(self) -> int:
        """Position after the last visible message, in slots since the lane was made."""
    @property
    def lag(self) -> int:
        """Visible slots that the consumer has not released, as last seen."""
    def maintain(self) -> None:
        """Looks at the agent's events; for a producer that sends rarely."""
    def close(self, timeout: Optional[float] = None) -> None:
        """Ends the stream. If that fails, the end stays open. Takes up to a second more where an
        agent is away or a frozen payload waits for news of its consumer."""
    def detach(self) -> None:
        """Leaves the stream open for a successor."""
    def __enter__(self) -> Producer: ...
    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> bool: ...

@final
class Consumer:
    """The consumer's end of a lane. One thread at a time uses it."""

    def recv(self, timeout: Optional[float] = None) -> bytes:
        """The next message, waiting for it at most ``timeout`` seconds."""
    def poll(self) -> Optional[bytes]:
        """The next message, if there is one now."""
    def recv_any(self, timeout: Optional[float] = None) -> Union[bytes, Frozen]:
        """The next message, or the next frozen payload, which is not copied."""
    def poll_any(self) -> Union[bytes, Frozen, None]:
        """As ``recv_any``, if there is one now."""
    def skip_frozen(self) -> bool:
        """Leaves out the next message if it is a frozen payload; whether it was one."""
    def recv_many(self, limit: int = 1024, timeout: Optional[float] = None) -> list[bytes]:
        """The messages that are there, waiting for the first one."""
    def recv_into(self, buffer: _Buffer, timeout: Optional[float] = None) -> int:
        """Copies the next message into a buffer that can be written; returns its length."""
    def recv_array(self, dtype: Any, limit: int = 1024, timeout: Optional[float] = None) -> Any:
        """The items of the messages that are there, at most ``limit`` messages, as one numpy array.

        ValueError for a message whose length is no multiple of the item's; it stays in the lane.
        """
    @property
    def grant(self) -> Grant: ...
    @property
    def peer(self) -> _Peer: ...
    @property
    def position(self) -> int:
        """Position of the next message, in slots since the lane was made."""
    def maintain(self) -> None:
        """Looks at the agent's events; for a consumer that receives rarely."""
    def detach(self) -> None:
        """Lets go of the lane. A successor goes on after what was received."""
    def __iter__(self) -> Consumer: ...
    def __next__(self) -> bytes: ...
    def __enter__(self) -> Consumer: ...
    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> bool: ...

@final
class Subscriber:
    """A reader of an evicting or overwriting broadcast lane. One thread at a time uses it.

    Every message is whole; what the producer wrote over before it was read raises ``LostError``, once
    and with its number of slots. That ends a ``for`` loop; the next one goes on.
    """

    def recv(self, timeout: Optional[float] = None) -> bytes:
        """The next message, waiting for it at most ``timeout`` seconds."""
    def poll(self) -> Optional[bytes]:
        """The next message, if there is one now."""
    def recv_many(self, limit: int = 1024, timeout: Optional[float] = None) -> list[bytes]:
        """The messages that are there, waiting for the first one; nothing is missing between them."""
    def recv_into(self, buffer: _Buffer, timeout: Optional[float] = None) -> int:
        """Copies the next message into a buffer that can be written; returns its length."""
    def recv_array(self, dtype: Any, limit: int = 1024, timeout: Optional[float] = None) -> Any:
        """The items of the messages that are there, at most ``limit`` messages, as one numpy array;
        nothing is missing between them.

        ValueError for a message whose length is no multiple of the item's; it stays for the next
        call.
        """
    @property
    def grant(self) -> Grant: ...
    @property
    def peer(self) -> _Peer: ...
    @property
    def position(self) -> int:
        """Position of the next message, in slots since the lane was made."""
    @property
    def lost(self) -> int:
        """Slots lost since the attach."""
    def maintain(self) -> None:
        """Looks at the agent's events; for a reader that receives rarely."""
    def detach(self) -> None:
        """Lets go of the lane."""
    def __iter__(self) -> Subscriber: ...
    def __next__(self) -> bytes: ...
    def __enter__(self) -> Subscriber: ...
    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> bool: ...

def attach_producer(
    socket: _Socket,
    *,
    ticket: Optional[str] = None,
    lane: Optional[str] = None,
    timeout: Optional[float] = 5.0,
    pin: bool = True,
    lifeline: bool = False,
) -> Producer:
    """Attaches the producer's end, by a ticket or by the lane's name.

    ``timeout`` is for each answer of the agent. ``pin`` pins the calling thread to the granted core.
    ``lifeline`` asks for the socket over which frozen payloads go; one of the two ends has to.
    """

def attach_consumer(
    socket: _Socket,
    *,
    ticket: Optional[str] = None,
    lane: Optional[str] = None,
    timeout: Optional[float] = 5.0,
    pin: bool = True,
    lifeline: bool = False,
) -> Consumer:
    """Attaches the consumer's end, as ``attach_producer`` does the producer's.

    In a lane that parks, a ``lifeline`` that the consumer asks for costs its producer a fence for
    each message, about 12 ns; one that the producer asks for does not.
    """

def attach_subscriber(
    socket: _Socket,
    *,
    ticket: Optional[str] = None,
    lane: Optional[str] = None,
    timeout: Optional[float] = 5.0,
    pin: bool = True,
    oldest: bool = False,
) -> Subscriber:
    """Attaches a reader of an evicting or overwriting lane, with a ticket of a consumer's.

    It starts with the next message, or with the ``oldest`` that is retained.
    """
