/* Every function of frozen payloads, well used and badly used. Prints "all of it" at the end.
 *
 *   frozen SOCKET PRODUCER_TICKET CONSUMER_TICKET ANOTHER_PRODUCER_TICKET
 *
 * The lane has 64 slots of 56 bytes and cores for nobody.
 */
#include <stdlib.h>
#include <time.h>

#include "checks.h"
#include "laneway.h"

enum { LEN = 10000, IN_FLIGHT_MAX = 16 };

static const uint64_t SOON_NS = 10000000000u;
static const uint64_t MOMENT_NS = 1000000u;

static laneway_frozen *frozen(char byte) {
    laneway_frozen_builder *builder;
    laneway_frozen *made;
    void *bytes;
    EXPECT(laneway_frozen_builder_new(LEN, &builder, &bytes), OK);
    CHECK(((char *)bytes)[0] == 0 && ((char *)bytes)[LEN - 1] == 0);
    memset(bytes, byte, LEN);
    EXPECT(laneway_frozen_builder_freeze(builder, &made), OK);
    EXPECT(laneway_frozen_builder_freeze(builder, &made), INVALID_HANDLE);
    EXPECT(laneway_frozen_builder_discard(builder), INVALID_HANDLE);
    return made;
}

static void is_of(laneway_frozen *payload, char byte) {
    const void *bytes;
    size_t len;
    EXPECT(laneway_frozen_bytes(payload, &bytes, &len), OK);
    CHECK(len == LEN);
    for (size_t at = 0; at < len; at++) {
        CHECK(((const char *)bytes)[at] == byte);
    }
}

static void arguments(void) {
    laneway_frozen_builder *builder;
    laneway_frozen *payload, *again;
    void *bytes;
    const void *seen;
    size_t len;
    uint64_t page_bytes;
    EXPECT(laneway_frozen_builder_new(0, &builder, &bytes), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_builder_new(((size_t)1 << 30) + 1, &builder, &bytes), INVALID_ARGUMENT);
    SAYS("1073741825");
    EXPECT(laneway_frozen_builder_new(LEN, NULL, &bytes), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_builder_new(LEN, &builder, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_builder_new(LEN, &builder, &bytes), OK);
    /* Nothing was done: the builder is still open. */
    EXPECT(laneway_frozen_builder_freeze(builder, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_release((laneway_frozen *)builder), INVALID_HANDLE);
    EXPECT(laneway_frozen_builder_discard(builder), OK);
    EXPECT(laneway_frozen_builder_discard(NULL), INVALID_HANDLE);

    payload = frozen('a');
    EXPECT(laneway_frozen_bytes(payload, NULL, &len), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_bytes(payload, &seen, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_page_bytes(payload, &page_bytes), OK);
    CHECK(page_bytes == 4096);
    EXPECT(laneway_frozen_page_bytes(payload, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_frozen_builder_freeze((laneway_frozen_builder *)payload, &again),
           INVALID_HANDLE);
    is_of(payload, 'a');
    EXPECT(laneway_frozen_release(payload), OK);
    EXPECT(laneway_frozen_release(payload), INVALID_HANDLE);
    EXPECT(laneway_frozen_bytes(payload, &seen, &len), INVALID_HANDLE);
    EXPECT(laneway_frozen_page_bytes(payload, &page_bytes), INVALID_HANDLE);
}

/* Messages and payloads in one order, by the calls that take both and by those that do not. */
static void in_order(laneway_producer *producer, laneway_consumer *consumer) {
    char buffer[56];
    size_t len;
    void *place;
    laneway_frozen *sent = frozen('x'), *found = sent;
    EXPECT(laneway_consumer_poll_any(consumer, buffer, sizeof buffer, &len, &found), EMPTY);
    CHECK(found == NULL);
    EXPECT(laneway_consumer_recv_any(consumer, buffer, sizeof buffer, MOMENT_NS, &len, &found),
           TIMED_OUT);
    EXPECT(laneway_producer_send(producer, "before", 6, SOON_NS), OK);
    EXPECT(laneway_producer_send_frozen(producer, sent, SOON_NS), OK);
    EXPECT(laneway_producer_send_frozen(producer, sent, 0), OK);
    EXPECT(laneway_producer_send(producer, "after", 5, SOON_NS), OK);
    EXPECT(laneway_producer_reserve(producer, 1, SOON_NS, &place), OK);
    EXPECT(laneway_producer_send_frozen(producer, sent, SOON_NS), OUT_OF_TURN);
    EXPECT(laneway_producer_abort(producer), OK);
    EXPECT(laneway_frozen_release(sent), OK);
    EXPECT(laneway_producer_send_frozen(producer, sent, SOON_NS), INVALID_HANDLE);

    EXPECT(laneway_consumer_skip_frozen(consumer), EMPTY);
    EXPECT(laneway_consumer_recv_any(consumer, buffer, 2, SOON_NS, &len, &found), TOO_SMALL);
    CHECK(len == 6 && found == NULL);
    EXPECT(laneway_consumer_recv_any(consumer, buffer, sizeof buffer, SOON_NS, &len, &found), OK);
    CHECK(len == 6 && found == NULL && memcmp(buffer, "before", 6) == 0);
    EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len), FROZEN);
    SAYS("frozen payload");
    EXPECT(laneway_consumer_poll(consumer, buffer, sizeof buffer, &len), FROZEN);
    EXPECT(laneway_consumer_recv_any(consumer, NULL, 0, SOON_NS, &len, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_recv_any(consumer, NULL, 0, SOON_NS, &len, &found), OK);
    CHECK(len == LEN && found != NULL);
    is_of(found, 'x');
    EXPECT(laneway_consumer_skip_frozen(consumer), OK);
    EXPECT(laneway_consumer_poll_any(consumer, buffer, sizeof buffer, &len, &sent), OK);
    CHECK(len == 5 && sent == NULL && memcmp(buffer, "after", 5) == 0);

    /* What was received can be sent on, and is there as long as one likes. */
    EXPECT(laneway_producer_send_frozen(producer, found, SOON_NS), OK);
    EXPECT(laneway_consumer_recv_any(consumer, NULL, 0, SOON_NS, &len, &sent), OK);
    EXPECT(laneway_frozen_release(found), OK);
    is_of(sent, 'x');
    EXPECT(laneway_frozen_release(sent), OK);
}

static void no_room(laneway_producer *producer, laneway_consumer *consumer) {
    size_t len;
    laneway_frozen *payload = frozen('y'), *found;
    for (int i = 0; i < IN_FLIGHT_MAX; i++) {
        EXPECT(laneway_producer_send_frozen(producer, payload, SOON_NS), OK);
    }
    EXPECT(laneway_producer_send_frozen(producer, payload, 0), FULL);
    SAYS("16 frozen payloads are in flight");
    EXPECT(laneway_producer_send_frozen(producer, payload, MOMENT_NS), TIMED_OUT);
    for (int i = 0; i < IN_FLIGHT_MAX; i++) {
        EXPECT(laneway_consumer_recv_any(consumer, NULL, 0, SOON_NS, &len, &found), OK);
        is_of(found, 'y');
        EXPECT(laneway_frozen_release(found), OK);
    }
    EXPECT(laneway_producer_send_frozen(producer, payload, 0), OK);
    EXPECT(laneway_consumer_skip_frozen(consumer), OK);
    EXPECT(laneway_frozen_release(payload), OK);
}

/* A producer that nobody gave a lifeline, and that asked for none. */
static void without_lifeline(char **argv, laneway_producer *producer, laneway_consumer *consumer) {
    laneway_producer *next;
    laneway_frozen *payload = frozen('z');
    EXPECT(laneway_consumer_detach(consumer), OK);
    EXPECT(laneway_producer_detach(producer), OK);
    EXPECT(laneway_producer_attach(argv[1], argv[4], NULL, &next), OK);
    EXPECT(laneway_producer_send_frozen(next, payload, SOON_NS), NO_LIFELINE);
    SAYS("LANEWAY_ATTACH_LIFELINE");
    EXPECT(laneway_producer_detach(next), OK);
    EXPECT(laneway_frozen_release(payload), OK);
}

/* One thread plays both ends: what is sent before the news of the consumer goes out at a later call. */
static void meet(laneway_producer *producer) {
    laneway_peer peer = LANEWAY_PEER_ABSENT;
    time_t end = time(NULL) + 30;
    while (peer != LANEWAY_PEER_LIVE) {
        CHECK(time(NULL) < end);
        EXPECT(laneway_producer_maintain(producer), OK);
        EXPECT(laneway_producer_peer(producer, &peer), OK);
    }
}

int main(int argc, char **argv) {
    laneway_producer *producer;
    laneway_consumer *consumer;
    laneway_attach_options options = {.flags = LANEWAY_ATTACH_LIFELINE | LANEWAY_ATTACH_NO_PIN};
    if (argc != 5) {
        return EXIT_FAILURE;
    }
    EXPECT(laneway_producer_attach(argv[1], argv[2], &options, &producer), OK);
    EXPECT(laneway_consumer_attach(argv[1], argv[3], &options, &consumer), OK);
    meet(producer);
    arguments();
    in_order(producer, consumer);
    no_room(producer, consumer);
    without_lifeline(argv, producer, consumer);
    puts("all of it");
    return EXIT_SUCCESS;
}
