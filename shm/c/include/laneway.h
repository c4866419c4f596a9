/* Laneway: private lanes between two processes of one node.
 *
 * Every function answers a `laneway_status`, and what else there is to tell through pointers.
 * Timeouts are nanoseconds: 0 does not wait, LANEWAY_FOREVER waits for ever.
 *
 * Threads: a handle may move from thread to thread, and one thread at a time uses it, the closing
 * included. Different handles have nothing to do with each other. An attach that pins its thread
 * gives the old affinity back when the same thread closes the handle. Handles are of the process
 * that attached: a forked child has none of the lane's memory and must not use them.
 *
 * A handle is a number and never followed: one that was closed, made up, or is of the other kind,
 * is answered by LANEWAY_STATUS_INVALID_HANDLE. Null, misaligned and oversized arguments are
 * answered by LANEWAY_STATUS_INVALID_ARGUMENT. Nothing was done then.
 *
 * Made from the sources: `BLESS=1 cargo test -p laneway-c` rewrites it. */

#ifndef LANEWAY_H
#define LANEWAY_H

#include <stddef.h>
#include <stdint.h>

// Version of this interface. It grows when something is taken away or changes its meaning.
#define LANEWAY_ABI_VERSION 1

// For a timeout: waits until there is something to answer.
#define LANEWAY_FOREVER UINT64_MAX

// For a cpu: none was granted.
#define LANEWAY_NO_CPU UINT32_MAX

// For `laneway_attach_options`: leaves the thread where it is, whatever core was granted.
#define LANEWAY_ATTACH_NO_PIN 1

// For `laneway_attach_options`: asks for a lifeline to each peer, over which frozen payloads go.
// Costs a descriptor; one end of the two is enough to ask. Where the consumer of a lane that parks
// asks, its producer makes a fence for each commit (about 12 ns).
#define LANEWAY_ATTACH_LIFELINE 2

// For `laneway_attach_options`: a reader of a broadcast lane starts with the oldest message that
// is retained, and not with the next one.
#define LANEWAY_ATTACH_OLDEST 4

// For `laneway_grant`: ends sleep when there is nothing to do.
#define LANEWAY_GRANT_PARKS 1

// For `laneway_grant`: the lane is tuned for throughput, not for latency.
#define LANEWAY_GRANT_THROUGHPUT 2

// For `laneway_grant`: the attach pinned its thread, unless it was told not to.
#define LANEWAY_GRANT_PINS_ITSELF 4

// For `laneway_grant`: the agent pins the thread.
#define LANEWAY_GRANT_PINNED_BY_AGENT 8

// What a call answers. Later versions may add numbers; none changes its meaning.
//
// All but `LANEWAY_STATUS_OK` and `LANEWAY_STATUS_EMPTY` leave a text for
// `laneway_error_message`.
typedef enum laneway_status {
  // Done.
  LANEWAY_STATUS_OK = 0,
  // No message is there now.
  LANEWAY_STATUS_EMPTY = 1,
  // The time ran out. Silence is not death: the text says what is known of the other end.
  LANEWAY_STATUS_TIMED_OUT = 2,
  // The producer ended the stream, and everything before the end was received.
  LANEWAY_STATUS_CLOSED = 3,
  // The agent took the lane away.
  LANEWAY_STATUS_REVOKED = 4,
  // The other end broke the protocol, or a segment did not stand up to the check. Final.
  LANEWAY_STATUS_CORRUPT = 5,
  // The message can never fit into this lane.
  LANEWAY_STATUS_TOO_LARGE = 6,
  // The next message is longer than the buffer. It stays in the lane, and its length was
  // written where the call says.
  LANEWAY_STATUS_TOO_SMALL = 7,
  // No room now, and the call was not to wait.
  LANEWAY_STATUS_FULL = 8,
  // The agent refused; the text starts with its fixed word.
  LANEWAY_STATUS_REFUSED = 9,
  // The agent cannot be reached.
  LANEWAY_STATUS_UNREACHABLE = 10,
  // The thread cannot be pinned to the granted cpu.
  LANEWAY_STATUS_NOT_PINNED = 11,
  // The message takes several slots and has no address of its own.
  LANEWAY_STATUS_NOT_IN_PLACE = 12,
  // A reservation is open, or none is.
  LANEWAY_STATUS_OUT_OF_TURN = 13,
  // An argument is null, misaligned, too large or no text.
  LANEWAY_STATUS_INVALID_ARGUMENT = 14,
  // This is no open handle: never attached, closed, or the other kind.
  LANEWAY_STATUS_INVALID_HANDLE = 15,
  // The operating system refused a call, or there are too many handles.
  LANEWAY_STATUS_SYSTEM = 16,
  // A bug in the library. The handle answers this for ever; it can still be detached.
  LANEWAY_STATUS_PANICKED = 17,
  // A broadcast lane that does not wait for its readers and was to be attached as a consumer,
  // another lane as a subscriber; or a broadcast lane that was to take a frozen payload.
  LANEWAY_STATUS_WRONG_SHAPE = 18,
  // The next message is a frozen payload, which this call does not take. It stays in the lane.
  LANEWAY_STATUS_FROZEN = 19,
  // A frozen payload will never come: its producer ended before this consumer was sent it, or
  // there was no room for its descriptor here. The next call goes on behind it.
  LANEWAY_STATUS_FROZEN_LOST = 20,
  // Neither end of the lane attached with `LANEWAY_ATTACH_LIFELINE`.
  LANEWAY_STATUS_NO_LIFELINE = 21,
  // The producer of a broadcast lane was faster than this subscriber: so many slots are lost as
  // the call tells. Told once for each loss; the next call goes on behind it.
  LANEWAY_STATUS_LOST = 22,
  // This subscriber is beyond the budget of an evicting lane, whose producer no longer counts
  // with it. Told once; it may go on, and is told what it loses.
  LANEWAY_STATUS_GIVEN_UP = 23,
} laneway_status;

// What the granted cores of a lane's two ends have in common, nearest first.
typedef enum laneway_relation {
  // An end has no core.
  LANEWAY_RELATION_UNKNOWN = 0,
  // They are one cpu: the ends take turns.
  LANEWAY_RELATION_SAME_CPU = 1,
  // They are two threads of one core.
  LANEWAY_RELATION_SAME_CORE = 2,
  // They share a level 2 cache.
  LANEWAY_RELATION_SAME_L2 = 3,
  // They share a level 3 cache.
  LANEWAY_RELATION_SAME_L3 = 4,
  // They are of one NUMA node.
  LANEWAY_RELATION_SAME_NODE = 5,
  // They are of different NUMA nodes.
  LANEWAY_RELATION_OTHER_NODE = 6,
} laneway_relation;

// What is known of the other end. One that is silent is attached.
typedef enum laneway_peer {
  // It has not attached yet.
  LANEWAY_PEER_ABSENT = 0,
  // It is attached, as far as the agent knows.
  LANEWAY_PEER_LIVE = 1,
  // Its process ended, or it detached.
  LANEWAY_PEER_GONE = 2,
} laneway_peer;

// How far the consumer is from the producer.
typedef enum laneway_distance {
  // The agent could not say, or both ends have one cpu, and nothing was measured yet; or what
  // was measured contradicts it.
  LANEWAY_DISTANCE_UNKNOWN = 0,
  // The two cores share a cache.
  LANEWAY_DISTANCE_NEAR = 1,
  // They do not.
  LANEWAY_DISTANCE_FAR = 2,
} laneway_distance;

// The consumer's end of a lane.
typedef struct laneway_consumer laneway_consumer;

// A frozen payload: a file of its own that nobody can change any more, the sender included. Costs
// a descriptor, and a mapping once its bytes are looked at, until it is released.
typedef struct laneway_frozen laneway_frozen;

// A frozen payload that is being written: memory of this process alone.
typedef struct laneway_frozen_builder laneway_frozen_builder;

// The producer's end of a lane.
typedef struct laneway_producer laneway_producer;

// A reader of an evicting or overwriting broadcast lane.
typedef struct laneway_subscriber laneway_subscriber;

// How to attach. All zero is a good choice, and what a null pointer means.
typedef struct laneway_attach_options {
  // Longest wait for each answer of the agent, in nanoseconds; 0 for 5 s.
  uint64_t timeout_ns;
  // Sum of `LANEWAY_ATTACH_` flags.
  uint32_t flags;
  // 0.
  uint32_t reserved;
} laneway_attach_options;

// A place for one received message.
typedef struct laneway_buffer {
  // First byte; may be null if `capacity` is 0.
  void *data;
  // Bytes that there is room for.
  size_t capacity;
  // Length of the message that was received.
  size_t len;
} laneway_buffer;

// What the agent granted to an end. Never grows: what comes later gets a function of its own.
typedef struct laneway_grant {
  // Largest message of the lane, in bytes.
  uint64_t message_max_bytes;
  // Size of the end's own segment, in bytes.
  uint64_t segment_bytes;
  // Size of its pages, in bytes.
  uint64_t page_bytes;
  // Counts the ends that attached here, this one included.
  uint64_t generation;
  // Payload of one slot, in bytes. Longer messages take several slots.
  uint32_t slot_payload_bytes;
  // Slots of the lane.
  uint32_t slot_count;
  // Granted cpu, or `LANEWAY_NO_CPU`.
  uint32_t cpu;
  // Sum of `LANEWAY_GRANT_` flags.
  uint32_t flags;
  // How well the core is kept free of other work: 'A' (isolated) to 'D' (not at all).
  char grade;
} laneway_grant;

// Bytes to send.
typedef struct laneway_slice {
  // First byte; may be null if `len` is 0.
  const void *data;
  // Number of bytes.
  size_t len;
} laneway_slice;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// `LANEWAY_ABI_VERSION` of the library that was loaded: compare it with the header's.
uint32_t laneway_abi_version(void);

// The text of this thread's last call that answered neither `LANEWAY_STATUS_OK` nor
// `LANEWAY_STATUS_EMPTY`; empty before the first. Valid until the next such call of the thread.
const char *laneway_error_message(void);

// Attaches the consumer's end with a ticket, as the control API printed it: 32 hexadecimal digits.
// `socket` is the path of the agent's attach socket. Pins the thread to the granted core, unless
// `options` forbids it, until the end is closed or detached by the same thread.
//
// # Safety
// `socket` and `ticket` are texts that end with 0. `options` is null or points to such a
// struct. `consumer` may be written.
enum laneway_status laneway_consumer_attach(const char *socket,
                                            const char *ticket,
                                            const struct laneway_attach_options *options,
                                            struct laneway_consumer **consumer);

// Attaches the consumer's end by the lane's name: its rule about user and group ids decides.
//
// # Safety
// `socket` and `lane` are texts that end with 0. `options` is null or points to such a struct.
// `consumer` may be written.
enum laneway_status laneway_consumer_attach_by_name(const char *socket,
                                                    const char *lane,
                                                    const struct laneway_attach_options *options,
                                                    struct laneway_consumer **consumer);

// Waits for the next message at most `timeout_ns`, copies it to `buffer` and gives its slots back.
// `len` tells its length, also where the answer is `LANEWAY_STATUS_TOO_SMALL`.
//
// # Safety
// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
// `len` may be written and is not part of them.
enum laneway_status laneway_consumer_recv(struct laneway_consumer *consumer,
                                          void *buffer,
                                          size_t capacity,
                                          uint64_t timeout_ns,
                                          size_t *len);

// As `laneway_consumer_recv` without a wait: `LANEWAY_STATUS_EMPTY` if no message is there now.
//
// # Safety
// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
// `len` may be written and is not part of them.
enum laneway_status laneway_consumer_poll(struct laneway_consumer *consumer,
                                          void *buffer,
                                          size_t capacity,
                                          size_t *len);

// As `laneway_consumer_recv` for a lane that carries frozen payloads, too. If the next message is
// one, `*frozen` is its handle, to be released, `len` tells its length, and nothing is copied;
// otherwise `*frozen` is null. The message's slot is given back: should this process end now, its
// successor is not sent the payload again.
//
// # Safety
// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
// `len` and `frozen` may be written and are not part of them.
enum laneway_status laneway_consumer_recv_any(struct laneway_consumer *consumer,
                                              void *buffer,
                                              size_t capacity,
                                              uint64_t timeout_ns,
                                              size_t *len,
                                              struct laneway_frozen **frozen);

// As `laneway_consumer_recv_any` without a wait: `LANEWAY_STATUS_EMPTY` if no message is there
// now.
//
// # Safety
// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
// `len` and `frozen` may be written and are not part of them.
enum laneway_status laneway_consumer_poll_any(struct laneway_consumer *consumer,
                                              void *buffer,
                                              size_t capacity,
                                              size_t *len,
                                              struct laneway_frozen **frozen);

// Leaves out the next message if it is a frozen payload, for a consumer that does not want it or
// has no memory to map it; `LANEWAY_STATUS_EMPTY` if it is none.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_consumer_skip_frozen(struct laneway_consumer *consumer);

// Waits for a message at most `timeout_ns` and receives those that are there, at most `count`,
// each into a buffer of its own. `received` tells how many. Stops before a message that is longer
// than its buffer; if that is the first one, the answer is `LANEWAY_STATUS_TOO_SMALL` and the
// first buffer's `len` tells the length.
//
// # Safety
// One thread at a time uses the handle. `buffers` has `count` buffers, each with its
// `capacity` bytes, that may be written. None overlaps another, the array or `received`, which
// may be written.
enum laneway_status laneway_consumer_recv_many(struct laneway_consumer *consumer,
                                               struct laneway_buffer *buffers,
                                               size_t count,
                                               uint64_t timeout_ns,
                                               size_t *received);

// As `laneway_consumer_recv_many`, one message behind the other from `bytes` on, without gaps,
// with their lengths in `lengths`.
//
// # Safety
// One thread at a time uses the handle. `bytes` has `capacity` bytes and `lengths` `count`
// numbers that may be written. Neither overlaps the other or `received`, which may be written.
enum laneway_status laneway_consumer_recv_packed(struct laneway_consumer *consumer,
                                                 void *bytes,
                                                 size_t capacity,
                                                 size_t *lengths,
                                                 size_t count,
                                                 uint64_t timeout_ns,
                                                 size_t *received);

// Tells what the agent granted.
//
// # Safety
// One thread at a time uses the handle. `grant` may be written.
enum laneway_status laneway_consumer_grant(struct laneway_consumer *consumer,
                                           struct laneway_grant *grant);

// Tells what the granted cores of this end and of the producer have in common.
//
// # Safety
// One thread at a time uses the handle. `relation` may be written.
enum laneway_status laneway_consumer_relation(struct laneway_consumer *consumer,
                                              enum laneway_relation *relation);

// Tells the position of the next message, in slots since the lane was made.
//
// # Safety
// One thread at a time uses the handle. `position` may be written.
enum laneway_status laneway_consumer_position(struct laneway_consumer *consumer,
                                              uint64_t *position);

// Tells what is known of the producer.
//
// # Safety
// One thread at a time uses the handle. `peer` may be written.
enum laneway_status laneway_consumer_peer(struct laneway_consumer *consumer,
                                          enum laneway_peer *peer);

// Looks at the agent's events: a new producer, a restarted agent, a revocation. A consumer that
// waits, or receives at full rate, does so by itself.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_consumer_maintain(struct laneway_consumer *consumer);

// Closes the handle. A successor goes on after what was received.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_consumer_detach(struct laneway_consumer *consumer);

// Makes memory for a payload of `len` bytes, 1 to 1 GiB, from 1 MiB on in 2 MiB pages if there are
// any. It starts at `*bytes`, is all zeros, and is written there.
//
// # Safety
// `builder` and `bytes` may be written. `*bytes` is used until the freeze or the discard, and no
// longer, for `len` bytes and no more.
enum laneway_status laneway_frozen_builder_new(size_t len,
                                               struct laneway_frozen_builder **builder,
                                               void **bytes);

// Takes the memory away from this process and seals it: nobody can write it any more. The builder
// is closed, also where something in this process still writes the memory, and the answer is
// `LANEWAY_STATUS_SYSTEM`.
//
// # Safety
// One thread at a time uses the handle. `frozen` may be written.
enum laneway_status laneway_frozen_builder_freeze(struct laneway_frozen_builder *builder,
                                                  struct laneway_frozen **frozen);

// Gives a builder up, and its memory back.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_frozen_builder_discard(struct laneway_frozen_builder *builder);

// Tells where the payload's bytes are, and how many. Nobody changes them, whoever sent them; they
// stay there until the release, and any thread may read them.
//
// # Safety
// One thread at a time uses the handle. `bytes` and `len` may be written. `*bytes` is read until
// the release, and no longer.
enum laneway_status laneway_frozen_bytes(struct laneway_frozen *frozen,
                                         const void **bytes,
                                         size_t *len);

// Tells the size of the pages that the payload lies on, in bytes.
//
// # Safety
// One thread at a time uses the handle. `page_bytes` may be written.
enum laneway_status laneway_frozen_page_bytes(struct laneway_frozen *frozen, uint64_t *page_bytes);

// Closes the handle, and takes the payload's bytes away. The memory is free when every process has
// done so; what was sent and not yet received stays for its receiver.
//
// # Safety
// One thread at a time uses the handle, and nobody reads the payload's bytes any more.
enum laneway_status laneway_frozen_release(struct laneway_frozen *frozen);

// Attaches the producer's end with a ticket, as the control API printed it: 32 hexadecimal digits.
// `socket` is the path of the agent's attach socket. Pins the thread to the granted core, unless
// `options` forbids it, until the end is closed or detached by the same thread.
//
// # Safety
// `socket` and `ticket` are texts that end with 0. `options` is null or points to such a
// struct. `producer` may be written.
enum laneway_status laneway_producer_attach(const char *socket,
                                            const char *ticket,
                                            const struct laneway_attach_options *options,
                                            struct laneway_producer **producer);

// Attaches the producer's end by the lane's name: its rule about user and group ids decides.
//
// # Safety
// `socket` and `lane` are texts that end with 0. `options` is null or points to such a struct.
// `producer` may be written.
enum laneway_status laneway_producer_attach_by_name(const char *socket,
                                                    const char *lane,
                                                    const struct laneway_attach_options *options,
                                                    struct laneway_producer **producer);

// Copies one message into the lane and makes it visible. Waits for room at most `timeout_ns`; with
// 0 it does not wait and answers `LANEWAY_STATUS_FULL`.
//
// # Safety
// One thread at a time uses the handle. `message` has `len` bytes that may be read.
enum laneway_status laneway_producer_send(struct laneway_producer *producer,
                                          const void *message,
                                          size_t len,
                                          uint64_t timeout_ns);

// Sends messages in order; what there is room for becomes visible at once. Waits for room at most
// `timeout_ns` for each. `sent` tells how many were sent, also where the answer is a failure.
//
// # Safety
// One thread at a time uses the handle. `messages` has `count` slices, and each its bytes,
// that may be read. `sent` may be written and is not part of them.
enum laneway_status laneway_producer_send_many(struct laneway_producer *producer,
                                               const struct laneway_slice *messages,
                                               size_t count,
                                               uint64_t timeout_ns,
                                               size_t *sent);

// Sends a frozen payload, in order with the lane's messages and without a copy. Waits at most
// `timeout_ns` for a slot and for earlier payloads to be released, of which 16 may be on their
// way; with 0 it does not wait and answers `LANEWAY_STATUS_FULL`. The handle of the payload stays
// open: it may be sent again, over this lane or another.
//
// One end of the lane at least attached with `LANEWAY_ATTACH_LIFELINE`. What is sent before there
// is a consumer goes out at a later call, or at `laneway_producer_maintain`, and is lost if the
// producer ends before that.
//
// # Safety
// One thread at a time uses each handle.
enum laneway_status laneway_producer_send_frozen(struct laneway_producer *producer,
                                                 struct laneway_frozen *frozen,
                                                 uint64_t timeout_ns);

// Finds room for a message of `len` bytes, which are then written in place, in the lane's own
// memory, from `*bytes` on. They keep what an earlier message left there. Nothing is visible, and
// nothing else can be sent, before `laneway_producer_commit` or `laneway_producer_abort`.
//
// # Safety
// One thread at a time uses the handle. `bytes` may be written. `*bytes` is used until the
// commit, the abort, the close or the detach, and no longer, for `len` bytes and no more.
enum laneway_status laneway_producer_reserve(struct laneway_producer *producer,
                                             size_t len,
                                             uint64_t timeout_ns,
                                             void **bytes);

// Makes the first `len` bytes of the open reservation visible as a message.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_producer_commit(struct laneway_producer *producer, size_t len);

// Gives the open reservation up: nobody will ever see it.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_producer_abort(struct laneway_producer *producer);

// Tells what the agent granted.
//
// # Safety
// One thread at a time uses the handle. `grant` may be written.
enum laneway_status laneway_producer_grant(struct laneway_producer *producer,
                                           struct laneway_grant *grant);

// Tells what the granted cores of this end and of the consumer have in common.
//
// # Safety
// One thread at a time uses the handle. `relation` may be written.
enum laneway_status laneway_producer_relation(struct laneway_producer *producer,
                                              enum laneway_relation *relation);

// Tells how far the consumer is: what the agent granted, and then what the time says in which the
// consumer's cursor comes here, looked at where messages take slots of 16 KiB or more, and in
// rings from 256 KiB on of slots up to 256 bytes. A lane that overwrites looks at no cursor:
// there the agent's word stands.
//
// # Safety
// One thread at a time uses the handle. `distance` may be written.
enum laneway_status laneway_producer_distance(struct laneway_producer *producer,
                                              enum laneway_distance *distance);

// Tells the position after the last visible message, in slots since the lane was made.
//
// # Safety
// One thread at a time uses the handle. `position` may be written.
enum laneway_status laneway_producer_position(struct laneway_producer *producer,
                                              uint64_t *position);

// Tells how many visible slots the consumer has not released, as last seen.
//
// # Safety
// One thread at a time uses the handle. `lag` may be written.
enum laneway_status laneway_producer_lag(struct laneway_producer *producer, uint64_t *lag);

// Tells what is known of the consumer.
//
// # Safety
// One thread at a time uses the handle. `peer` may be written.
enum laneway_status laneway_producer_peer(struct laneway_producer *producer,
                                          enum laneway_peer *peer);

// Looks at the agent's events: a new consumer, a restarted agent, a revocation. A producer that
// waits, or sends at full rate, does so by itself; one that sends rarely calls it now and then.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_producer_maintain(struct laneway_producer *producer);

// Ends the stream and closes the handle: the consumer sees the end after the last message. Waits
// at most `timeout_ns` for the one slot that the end takes, and up to a second more where an agent
// is away or a frozen payload waits for news of its consumer. Where the answer is not
// `LANEWAY_STATUS_OK`, the handle stays open: close it again, or detach it.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_producer_close(struct laneway_producer *producer, uint64_t timeout_ns);

// Closes the handle and leaves the stream open for a successor. An open reservation is given up.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_producer_detach(struct laneway_producer *producer);

// Attaches a reader of an evicting or overwriting broadcast lane with a ticket of a consumer's; as
// `laneway_consumer_attach`. It starts with the next message, unless `options` say otherwise.
//
// # Safety
// `socket` and `ticket` are texts that end with 0. `options` is null or points to such a
// struct. `subscriber` may be written.
enum laneway_status laneway_subscriber_attach(const char *socket,
                                              const char *ticket,
                                              const struct laneway_attach_options *options,
                                              struct laneway_subscriber **subscriber);

// As `laneway_subscriber_attach` by the lane's name: its rule about user and group ids decides.
//
// # Safety
// `socket` and `lane` are texts that end with 0. `options` is null or points to such a struct.
// `subscriber` may be written.
enum laneway_status laneway_subscriber_attach_by_name(const char *socket,
                                                      const char *lane,
                                                      const struct laneway_attach_options *options,
                                                      struct laneway_subscriber **subscriber);

// Waits for the next message at most `timeout_ns` and copies it to `buffer`. `len` tells its
// length, also where the answer is `LANEWAY_STATUS_TOO_SMALL`: then the next call has it again.
//
// `lost` tells how many slots the producer wrote over before this reader came: more than 0 with
// `LANEWAY_STATUS_LOST` alone, which takes no message. The next call goes on behind the loss.
//
// # Safety
// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
// `len` and `lost` may be written and are not part of them.
enum laneway_status laneway_subscriber_recv(struct laneway_subscriber *subscriber,
                                            void *buffer,
                                            size_t capacity,
                                            uint64_t timeout_ns,
                                            size_t *len,
                                            uint64_t *lost);

// As `laneway_subscriber_recv` without a wait: `LANEWAY_STATUS_EMPTY` if no message is there now.
//
// # Safety
// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
// `len` and `lost` may be written and are not part of them.
enum laneway_status laneway_subscriber_poll(struct laneway_subscriber *subscriber,
                                            void *buffer,
                                            size_t capacity,
                                            size_t *len,
                                            uint64_t *lost);

// Waits for a message at most `timeout_ns` and receives those that are there, at most `count`,
// each into a buffer of its own. `received` tells how many. Stops before a message that is longer
// than its buffer, as `laneway_consumer_recv_many` does, and before a loss: the next call tells
// it as `laneway_subscriber_recv` does, so that nothing is missing between two messages of a call.
//
// # Safety
// One thread at a time uses the handle. `buffers` has `count` buffers, each with its
// `capacity` bytes, that may be written. None overlaps another, the array, `received` or `lost`,
// which may be written.
enum laneway_status laneway_subscriber_recv_many(struct laneway_subscriber *subscriber,
                                                 struct laneway_buffer *buffers,
                                                 size_t count,
                                                 uint64_t timeout_ns,
                                                 size_t *received,
                                                 uint64_t *lost);

// As `laneway_subscriber_recv_many`, one message behind the other from `bytes` on, without gaps,
// with their lengths in `lengths`.
//
// # Safety
// One thread at a time uses the handle. `bytes` has `capacity` bytes and `lengths` `count`
// numbers that may be written. Neither overlaps the other, `received` or `lost`, which may be
// written.
enum laneway_status laneway_subscriber_recv_packed(struct laneway_subscriber *subscriber,
                                                   void *bytes,
                                                   size_t capacity,
                                                   size_t *lengths,
                                                   size_t count,
                                                   uint64_t timeout_ns,
                                                   size_t *received,
                                                   uint64_t *lost);

// Tells what the agent granted.
//
// # Safety
// One thread at a time uses the handle. `grant` may be written.
enum laneway_status laneway_subscriber_grant(struct laneway_subscriber *subscriber,
                                             struct laneway_grant *grant);

// Tells what the granted cores of this end and of the producer have in common.
//
// # Safety
// One thread at a time uses the handle. `relation` may be written.
enum laneway_status laneway_subscriber_relation(struct laneway_subscriber *subscriber,
                                                enum laneway_relation *relation);

// Tells how far the reader is: the position of the next message, in slots since the lane was made,
// and the slots that it lost since its attach.
//
// # Safety
// One thread at a time uses the handle. `position` and `lost` may be written.
enum laneway_status laneway_subscriber_position(struct laneway_subscriber *subscriber,
                                                uint64_t *position,
                                                uint64_t *lost);

// Tells what is known of the producer.
//
// # Safety
// One thread at a time uses the handle. `peer` may be written.
enum laneway_status laneway_subscriber_peer(struct laneway_subscriber *subscriber,
                                            enum laneway_peer *peer);

// Looks at the agent's events, as `laneway_consumer_maintain`.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_subscriber_maintain(struct laneway_subscriber *subscriber);

// Closes the handle.
//
// # Safety
// One thread at a time uses the handle.
enum laneway_status laneway_subscriber_detach(struct laneway_subscriber *subscriber);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LANEWAY_H */
