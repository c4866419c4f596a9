/* Every function of a subscriber, on a broadcast lane that does not wait for it. Prints "all of it"
 * at the end.
 *
 *   overrun SOCKET PRODUCER_TICKET CONSUMER_TICKET ANOTHER_CONSUMER_TICKET evicting|overwriting
 *
 * The lane has 8 slots of 56 bytes and cores for nobody.
 */
#include "checks.h"
#include "laneway.h"

static const uint64_t SOON_NS = 10000000000u;
static const uint64_t MOMENT_NS = 1000000u;

#define PACKED(...) laneway_subscriber_recv_packed(reader, __VA_ARGS__)

/* Messages are their own positions. */
static void send(laneway_producer *producer, uint64_t from, uint64_t to) {
    for (uint64_t number = from; number < to; number++) {
        EXPECT(laneway_producer_send(producer, &number, sizeof number, SOON_NS), OK);
    }
}

static void attaches(char **argv, laneway_producer **producer, laneway_subscriber **reader) {
    laneway_attach_options options = {0};
    laneway_consumer *consumer;
    laneway_peer peer = LANEWAY_PEER_ABSENT;
    EXPECT(laneway_consumer_attach(argv[1], argv[3], NULL, &consumer), WRONG_SHAPE);
    SAYS("subscriber");
    EXPECT(laneway_subscriber_attach(argv[1], argv[3], NULL, reader), REFUSED);
    EXPECT(laneway_subscriber_attach(argv[1], argv[4], NULL, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_attach_by_name(argv[1], "nowhere", NULL, reader), REFUSED);
    EXPECT(laneway_producer_attach(argv[1], argv[2], NULL, producer), OK);
    send(*producer, 0, 2);
    options.flags = LANEWAY_ATTACH_OLDEST;
    EXPECT(laneway_subscriber_attach(argv[1], argv[4], &options, reader), OK);
    while (peer != LANEWAY_PEER_LIVE) {
        EXPECT(laneway_producer_maintain(*producer), OK);
        EXPECT(laneway_producer_peer(*producer, &peer), OK);
    }
}

static void messages(laneway_producer *producer, laneway_subscriber *reader) {
    uint64_t number, lost, position;
    uint64_t numbers[4] = {0};
    size_t len, received;
    laneway_buffer buffers[4];
    laneway_grant grant;
    laneway_peer peer;
    laneway_relation relation = LANEWAY_RELATION_SAME_CPU;
    /* Retained from before the attach. */
    EXPECT(laneway_subscriber_recv(reader, &number, sizeof number, SOON_NS, &len, &lost), OK);
    CHECK(number == 0 && len == 8 && lost == 0);
    EXPECT(laneway_subscriber_poll(reader, &number, sizeof number, &len, &lost), OK);
    CHECK(number == 1);
    EXPECT(laneway_subscriber_poll(reader, &number, sizeof number, &len, &lost), EMPTY);
    EXPECT(laneway_subscriber_recv(reader, &number, 8, MOMENT_NS, &len, &lost), TIMED_OUT);
    EXPECT(laneway_subscriber_grant(reader, &grant), OK);
    CHECK(grant.slot_count == 8 && grant.message_max_bytes == 8 * 56);
    EXPECT(laneway_subscriber_peer(reader, &peer), OK);
    CHECK(peer == LANEWAY_PEER_LIVE);
    EXPECT(laneway_subscriber_maintain(reader), OK);
    EXPECT(laneway_subscriber_relation(reader, &relation), OK);
    CHECK(relation == LANEWAY_RELATION_UNKNOWN);

    /* One that has no room is told, and there again. */
    send(producer, 2, 5);
    EXPECT(laneway_subscriber_recv(reader, &number, 7, SOON_NS, &len, &lost), TOO_SMALL);
    CHECK(len == 8);
    EXPECT(laneway_subscriber_position(reader, &position, &lost), OK);
    CHECK(position == 2 && lost == 0);
    for (int i = 0; i < 4; i++) {
        buffers[i] = (laneway_buffer){&numbers[i], i == 2 ? 7 : 8, 0};
    }
    EXPECT(laneway_subscriber_recv_many(reader, buffers, 4, SOON_NS, &received, &lost), OK);
    CHECK(received == 2 && numbers[0] == 2 && numbers[1] == 3 && buffers[1].len == 8);
    EXPECT(laneway_subscriber_recv_many(reader, buffers + 2, 1, 0, &received, &lost), TOO_SMALL);
    CHECK(received == 0 && buffers[2].len == 8);
    EXPECT(laneway_subscriber_recv_many(reader, buffers, 0, 0, &received, &lost), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_recv_many(reader, buffers, 4, 0, &received, &lost), OK);
    CHECK(received == 1 && numbers[0] == 4);
    EXPECT(laneway_subscriber_recv_many(reader, buffers, 4, 0, &received, &lost), TIMED_OUT);
}

/* One message behind the other, as far as there is room; what has none is told, and there again,
 * also when it was written over meanwhile. A loss is told between two calls. From position 100 on.
 */
static void packed(laneway_producer *producer, laneway_subscriber *reader) {
    uint64_t numbers[4] = {0}, lost, gone, position;
    size_t lengths[4], received;
    EXPECT(laneway_producer_send(producer, "abc", 3, SOON_NS), OK);
    EXPECT(laneway_producer_send(producer, "", 0, SOON_NS), OK);
    send(producer, 102, 104);
    EXPECT(PACKED(numbers, 2, lengths, 4, SOON_NS, &received, &lost), TOO_SMALL);
    CHECK(received == 0 && lengths[0] == 3);
    EXPECT(PACKED(numbers, 18, lengths, 4, 0, &received, &lost), OK);
    CHECK(received == 3 && lost == 0 && memcmp(numbers, "abcf\0\0\0\0\0\0\0", 11) == 0);
    CHECK(lengths[0] == 3 && lengths[1] == 0 && lengths[2] == 8);
    send(producer, 104, 140);
    EXPECT(PACKED(numbers, 32, lengths, 4, 0, &received, &lost), OK);
    CHECK(received == 1 && numbers[0] == 103 && lost == 0);
    EXPECT(PACKED(numbers, 32, lengths, 4, 0, &received, &lost), LOST);
    CHECK(received == 0 && lost > 0);
    EXPECT(PACKED(numbers, 32, lengths, 2, 0, &received, &gone), OK);
    CHECK(received == 2 && gone == 0 && numbers[0] == 104 + lost && numbers[1] == 105 + lost);
    EXPECT(laneway_subscriber_position(reader, &position, &gone), OK);
    CHECK(position == 106 + lost && gone > lost);
    EXPECT(PACKED(numbers, 32, lengths, 0, 0, &received, &lost), INVALID_ARGUMENT);
    EXPECT(PACKED(NULL, 32, lengths, 4, 0, &received, &lost), INVALID_ARGUMENT);
    EXPECT(PACKED(numbers, 32, NULL, 4, 0, &received, &lost), INVALID_ARGUMENT);
    EXPECT(PACKED(numbers, 32, lengths, 4, 0, &received, NULL), INVALID_ARGUMENT);
}

/* Reads up to `end`: every message is the next one, but for the losses that were told. */
static void follow(laneway_subscriber *reader, uint64_t next, uint64_t end, int *given_up) {
    uint64_t number, lost, all = 0;
    size_t len;
    while (next < end) {
        laneway_status status =
            laneway_subscriber_recv(reader, &number, sizeof number, SOON_NS, &len, &lost);
        if (status == LANEWAY_STATUS_LOST) {
            CHECK(lost > 0);
            next += lost;
            all += lost;
        } else if (status == LANEWAY_STATUS_GIVEN_UP) {
            CHECK(lost == 0);
            *given_up += 1;
        } else {
            expect_at(__LINE__, "recv", status, LANEWAY_STATUS_OK);
            CHECK(lost == 0 && number == next);
            next++;
        }
    }
    EXPECT(laneway_subscriber_position(reader, &number, &lost), OK);
    CHECK(number == end && lost == all && all > 0);
}

static void bad_arguments(laneway_producer *producer, laneway_subscriber *reader) {
    char buffer[8];
    size_t len;
    uint64_t lost;
    laneway_peer peer;
    EXPECT(laneway_subscriber_recv(reader, NULL, 8, 0, &len, &lost), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_recv(reader, buffer, 8, 0, NULL, &lost), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_recv(reader, buffer, 8, 0, &len, NULL), INVALID_ARGUMENT);
    SAYS("argument lost is null");
    EXPECT(laneway_subscriber_poll(reader, buffer, 8, &len, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_recv_many(reader, NULL, 1, 0, &len, &lost), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_position(reader, NULL, &lost), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_grant(reader, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_peer(reader, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_relation(reader, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_subscriber_peer((laneway_subscriber *)producer, &peer), INVALID_HANDLE);
    EXPECT(laneway_consumer_poll((laneway_consumer *)reader, buffer, 8, &len), INVALID_HANDLE);
    EXPECT(laneway_subscriber_maintain(NULL), INVALID_HANDLE);
}

int main(int argc, char **argv) {
    laneway_producer *producer;
    laneway_subscriber *reader;
    char buffer[8];
    size_t len;
    uint64_t lost;
    laneway_status status;
    int given_up = 0;
    if (argc != 6) {
        return EXIT_FAILURE;
    }
    attaches(argv, &producer, &reader);
    messages(producer, reader);
    bad_arguments(producer, reader);
    send(producer, 5, 100);
    follow(reader, 5, 100, &given_up);
    CHECK(given_up == (strcmp(argv[5], "evicting") == 0));
    packed(producer, reader);
    EXPECT(laneway_producer_close(producer, SOON_NS), OK);
    do {
        status = laneway_subscriber_recv(reader, buffer, sizeof buffer, SOON_NS, &len, &lost);
    } while (status == LANEWAY_STATUS_OK);
    expect_at(__LINE__, "the end", status, LANEWAY_STATUS_CLOSED);
    EXPECT(laneway_subscriber_detach(reader), OK);
    EXPECT(laneway_subscriber_detach(reader), INVALID_HANDLE);
    EXPECT(laneway_subscriber_poll(reader, buffer, sizeof buffer, &len, &lost), INVALID_HANDLE);
    puts("all of it");
    return EXIT_SUCCESS;
}
