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
    EXPECT(laneway_producer_close(producer, SOON_NS), OK);
    EXPECT(laneway_subscriber_recv(reader, buffer, sizeof buffer, SOON_NS, &len, &lost), CLOSED);
    EXPECT(laneway_subscriber_detach(reader), OK);
    EXPECT(laneway_subscriber_detach(reader), INVALID_HANDLE);
    EXPECT(laneway_subscriber_poll(reader, buffer, sizeof buffer, &len, &lost), INVALID_HANDLE);
    puts("all of it");
    return EXIT_SUCCESS;
}
