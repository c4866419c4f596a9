/* Every function of the header, well used and badly used. Prints "all of it" at the end.
 *
 *   behaviour SOCKET PRODUCER_TICKET CONSUMER_TICKET ANOTHER_PRODUCER_TICKET
 *
 * The lane has 8 slots of 56 bytes and cores for nobody.
 */
#include "checks.h"
#include "laneway.h"

static const uint64_t SOON_NS = 10000000000u;
static const uint64_t MOMENT_NS = 1000000u;

/* A consumer that finds nothing gives back what it has received: all of the ring is free. */
static void give_back(laneway_consumer *consumer) {
    size_t len;
    EXPECT(laneway_consumer_poll(consumer, NULL, 0, &len), EMPTY);
}

/* Attaches that must fail, and then both that must not. */
static void attaches(char **argv, laneway_producer **producer, laneway_consumer **consumer) {
    const char *socket = argv[1];
    const char *wrong = "00000000000000000000000000000000";
    static char endless[5000];
    memset(endless, 'a', sizeof endless);
    laneway_attach_options options = {0};

    CHECK(laneway_abi_version() == LANEWAY_ABI_VERSION);
    CHECK(laneway_error_message()[0] == 0);
    EXPECT(laneway_producer_attach(socket, wrong, NULL, producer), REFUSED);
    SAYS("TICKET_INVALID");
    EXPECT(laneway_producer_attach(socket, "no ticket", NULL, producer), INVALID_ARGUMENT);
    EXPECT(laneway_producer_attach(socket, NULL, NULL, producer), INVALID_ARGUMENT);
    SAYS("argument ticket is null");
    EXPECT(laneway_producer_attach(socket, endless, NULL, producer), INVALID_ARGUMENT);
    EXPECT(laneway_producer_attach(socket, wrong, NULL, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_producer_attach("/no/such/socket", wrong, NULL, producer), UNREACHABLE);
    EXPECT(laneway_consumer_attach(socket, argv[2], NULL, consumer), REFUSED);
    EXPECT(laneway_consumer_attach_by_name(socket, "nowhere", NULL, consumer), REFUSED);
    EXPECT(laneway_producer_attach_by_name(socket, "\xff", NULL, producer), INVALID_ARGUMENT);
    options.flags = 8;
    EXPECT(laneway_producer_attach(socket, argv[2], &options, producer), INVALID_ARGUMENT);
    options.flags = LANEWAY_ATTACH_NO_PIN;
    options.timeout_ns = SOON_NS;
    EXPECT(laneway_producer_attach(socket, argv[2], &options, producer), OK);
    EXPECT(laneway_consumer_attach(socket, argv[3], NULL, consumer), OK);
}

static void facts(laneway_producer *producer, laneway_consumer *consumer) {
    laneway_grant grant;
    laneway_relation relation = LANEWAY_RELATION_OTHER_NODE;
    laneway_distance distance = LANEWAY_DISTANCE_FAR;
    laneway_peer peer;
    uint64_t number;
    EXPECT(laneway_producer_grant(producer, &grant), OK);
    CHECK(grant.slot_payload_bytes == 56 && grant.slot_count == 8);
    CHECK(grant.message_max_bytes == 8 * 56 && grant.page_bytes == 4096);
    CHECK(grant.cpu == LANEWAY_NO_CPU && grant.flags == 0);
    EXPECT(laneway_consumer_grant(consumer, &grant), OK);
    CHECK(grant.grade >= 'A' && grant.grade <= 'D');
    /* Without cores nobody knows how far they are from each other. */
    EXPECT(laneway_producer_relation(producer, &relation), OK);
    CHECK(relation == LANEWAY_RELATION_UNKNOWN);
    EXPECT(laneway_consumer_relation(consumer, &relation), OK);
    CHECK(relation == LANEWAY_RELATION_UNKNOWN);
    EXPECT(laneway_producer_distance(producer, &distance), OK);
    CHECK(distance == LANEWAY_DISTANCE_UNKNOWN);
    EXPECT(laneway_producer_maintain(producer), OK);
    EXPECT(laneway_consumer_maintain(consumer), OK);
    EXPECT(laneway_producer_send(producer, "", 0, SOON_NS), OK);
    EXPECT(laneway_producer_position(producer, &number), OK);
    CHECK(number == 1);
    EXPECT(laneway_producer_lag(producer, &number), OK);
    CHECK(number == 1);
    EXPECT(laneway_consumer_recv(consumer, NULL, 0, SOON_NS, &(size_t){0}), OK);
    EXPECT(laneway_consumer_position(consumer, &number), OK);
    CHECK(number == 1);
    EXPECT(laneway_consumer_peer(consumer, &peer), OK);
    CHECK(peer == LANEWAY_PEER_LIVE);
    EXPECT(laneway_producer_peer(producer, &peer), OK);
    CHECK(peer == LANEWAY_PEER_LIVE || peer == LANEWAY_PEER_ABSENT);
}

static void messages(laneway_producer *producer, laneway_consumer *consumer) {
    char buffer[512];
    size_t len = 7;
    EXPECT(laneway_consumer_poll(consumer, buffer, sizeof buffer, &len), EMPTY);
    EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, MOMENT_NS, &len), TIMED_OUT);
    EXPECT(laneway_producer_send(producer, buffer, 8 * 56 + 1, SOON_NS), TOO_LARGE);

    EXPECT(laneway_producer_send(producer, "one", 3, SOON_NS), OK);
    EXPECT(laneway_consumer_recv(consumer, buffer, 2, SOON_NS, &len), TOO_SMALL);
    CHECK(len == 3);
    EXPECT(laneway_consumer_poll(consumer, NULL, 0, &len), TOO_SMALL);
    EXPECT(laneway_consumer_poll(consumer, buffer, len, &len), OK);
    CHECK(len == 3 && memcmp(buffer, "one", 3) == 0);

    give_back(consumer);
    /* A message over several slots, and one that does not fit beside it. */
    memset(buffer, 'x', sizeof buffer);
    EXPECT(laneway_producer_send(producer, buffer, 400, SOON_NS), OK);
    EXPECT(laneway_producer_send(producer, buffer, 60, 0), FULL);
    EXPECT(laneway_producer_send(producer, buffer, 60, MOMENT_NS), TIMED_OUT);
    memset(buffer, 0, sizeof buffer);
    EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len), OK);
    CHECK(len == 400 && buffer[0] == 'x' && buffer[399] == 'x' && buffer[400] == 0);
}

static void in_place(laneway_producer *producer, laneway_consumer *consumer) {
    char buffer[56];
    size_t len;
    void *place;
    EXPECT(laneway_producer_commit(producer, 0), OUT_OF_TURN);
    EXPECT(laneway_producer_abort(producer), OUT_OF_TURN);
    EXPECT(laneway_producer_reserve(producer, 57, SOON_NS, &place), NOT_IN_PLACE);
    EXPECT(laneway_producer_reserve(producer, 20, SOON_NS, &place), OK);
    memcpy(place, "never seen", 10);
    EXPECT(laneway_producer_send(producer, "other", 5, SOON_NS), OUT_OF_TURN);
    EXPECT(laneway_producer_reserve(producer, 1, SOON_NS, &place), OUT_OF_TURN);
    EXPECT(laneway_producer_close(producer, SOON_NS), OUT_OF_TURN);
    EXPECT(laneway_producer_abort(producer), OK);
    EXPECT(laneway_consumer_poll(consumer, buffer, sizeof buffer, &len), EMPTY);
    EXPECT(laneway_producer_reserve(producer, 20, 0, &place), OK);
    memcpy(place, "in place", 8);
    EXPECT(laneway_producer_commit(producer, 21), INVALID_ARGUMENT);
    EXPECT(laneway_producer_commit(producer, 8), OK);
    EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len), OK);
    CHECK(len == 8 && memcmp(buffer, "in place", 8) == 0);
}

static void many(laneway_producer *producer, laneway_consumer *consumer) {
    laneway_slice out[] = {{"a", 1}, {"bcd", 3}, {NULL, 0}, {"efghij", 6}, {NULL, 1}};
    size_t count = 99, lengths[8];
    char bytes[8], first[2], second[8];
    EXPECT(laneway_producer_send_many(producer, out, 4, SOON_NS, &count), OK);
    CHECK(count == 4);
    EXPECT(laneway_consumer_recv_packed(consumer, bytes, 8, lengths, 0, SOON_NS, &count),
           INVALID_ARGUMENT);
    EXPECT(laneway_consumer_recv_packed(consumer, bytes, 8, lengths, 8, SOON_NS, &count), OK);
    CHECK(count == 3 && memcmp(bytes, "abcd", 4) == 0);
    CHECK(lengths[0] == 1 && lengths[1] == 3 && lengths[2] == 0);
    EXPECT(laneway_consumer_recv_packed(consumer, bytes, 5, lengths, 8, SOON_NS, &count),
           TOO_SMALL);
    CHECK(count == 0 && lengths[0] == 6);
    EXPECT(laneway_consumer_recv_packed(consumer, bytes, 6, lengths, 8, SOON_NS, &count), OK);
    CHECK(count == 1 && memcmp(bytes, "efghij", 6) == 0);

    /* The last slice is not there: what comes before it is sent, and said to be. */
    EXPECT(laneway_producer_send_many(producer, out, 5, SOON_NS, &count), INVALID_ARGUMENT);
    CHECK(count == 4);
    laneway_buffer in[] = {{first, 2, 0}, {second, 8, 0}, {NULL, 0, 0}, {second, 2, 0}};
    EXPECT(laneway_consumer_recv_many(consumer, in, 4, SOON_NS, &count), OK);
    CHECK(count == 3 && in[0].len == 1 && in[1].len == 3 && in[2].len == 0);
    CHECK(first[0] == 'a' && memcmp(second, "bcd", 3) == 0);
    EXPECT(laneway_consumer_recv_many(consumer, in, 4, SOON_NS, &count), TOO_SMALL);
    CHECK(count == 0 && in[0].len == 6);
    EXPECT(laneway_consumer_recv_many(consumer, &in[1], 1, SOON_NS, &count), OK);
    EXPECT(laneway_consumer_recv_many(consumer, in, 4, MOMENT_NS, &count), TIMED_OUT);

    give_back(consumer);
    laneway_slice nine[9] = {{NULL, 0}};
    EXPECT(laneway_producer_send_many(producer, nine, 9, 0, &count), FULL);
    CHECK(count == 8);
    EXPECT(laneway_consumer_recv_packed(consumer, NULL, 0, lengths, 8, SOON_NS, &count), OK);
    CHECK(count == 8);
}

static void bad_arguments(laneway_producer *producer, laneway_consumer *consumer) {
    union {
        size_t aligned[3];
        char bytes[24];
    } memory;
    char buffer[8];
    size_t len;
    void *crooked = memory.bytes + 1;
    EXPECT(laneway_producer_send(producer, NULL, 1, SOON_NS), INVALID_ARGUMENT);
    EXPECT(laneway_producer_send(producer, buffer, SIZE_MAX, SOON_NS), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_recv(consumer, NULL, 8, SOON_NS, &len), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_recv(consumer, buffer, SIZE_MAX, SOON_NS, &len), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_recv(consumer, buffer, 8, SOON_NS, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_recv(consumer, buffer, 8, SOON_NS, crooked), INVALID_ARGUMENT);
    SAYS("argument len is misaligned");
    EXPECT(laneway_consumer_recv_many(consumer, crooked, 1, SOON_NS, &len), INVALID_ARGUMENT);
    EXPECT(laneway_producer_send_many(producer, crooked, 1, SOON_NS, &len), INVALID_ARGUMENT);
    EXPECT(laneway_producer_reserve(producer, 1, SOON_NS, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_producer_relation(producer, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_producer_distance(producer, crooked), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_relation(consumer, NULL), INVALID_ARGUMENT);
}

static void bad_handles(laneway_producer *producer, laneway_consumer *consumer) {
    size_t len;
    /* Null, made up, misaligned, and of the other kind. */
    EXPECT(laneway_producer_send(NULL, "", 0, 0), INVALID_HANDLE);
    EXPECT(laneway_producer_send((laneway_producer *)&len, "", 0, 0), INVALID_HANDLE);
    EXPECT(laneway_producer_send((laneway_producer *)((char *)producer + 1), "", 0, 0),
           INVALID_HANDLE);
    EXPECT(laneway_producer_send((laneway_producer *)consumer, "", 0, 0), INVALID_HANDLE);
    EXPECT(laneway_producer_send((laneway_producer *)UINTPTR_MAX, "", 0, 0), INVALID_HANDLE);
    EXPECT(laneway_producer_distance((laneway_producer *)consumer, NULL), INVALID_ARGUMENT);
    EXPECT(laneway_consumer_relation((laneway_consumer *)producer, &(laneway_relation){0}),
           INVALID_HANDLE);
    EXPECT(laneway_consumer_detach((laneway_consumer *)producer), INVALID_HANDLE);
    EXPECT(laneway_consumer_detach(NULL), INVALID_HANDLE);
}

static void ends(char **argv, laneway_producer *producer, laneway_consumer *consumer) {
    char buffer[8];
    size_t len;
    laneway_producer *next;
    laneway_slice eight[8] = {{NULL, 0}};
    give_back(consumer);
    /* No room for the end: the handle stays open. */
    EXPECT(laneway_producer_send_many(producer, eight, 8, SOON_NS, &len), OK);
    EXPECT(laneway_producer_close(producer, MOMENT_NS), TIMED_OUT);
    for (int i = 0; i < 8; i++) {
        EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len), OK);
    }
    EXPECT(laneway_producer_send(producer, "last", 4, SOON_NS), OK);
    EXPECT(laneway_producer_close(producer, SOON_NS), OK);
    EXPECT(laneway_producer_close(producer, SOON_NS), INVALID_HANDLE);
    EXPECT(laneway_producer_detach(producer), INVALID_HANDLE);
    EXPECT(laneway_producer_send(producer, "", 0, 0), INVALID_HANDLE);
    EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len), OK);
    CHECK(len == 4 && memcmp(buffer, "last", 4) == 0);
    EXPECT(laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len), CLOSED);
    EXPECT(laneway_consumer_poll(consumer, buffer, sizeof buffer, &len), CLOSED);

    /* A successor in the same place of the table: the old handle does not open it. */
    EXPECT(laneway_producer_attach(argv[1], argv[4], NULL, &next), OK);
    CHECK(next != producer);
    EXPECT(laneway_producer_send(producer, "", 0, 0), INVALID_HANDLE);
    EXPECT(laneway_producer_send(next, "next", 4, SOON_NS), OK);
    laneway_status status;
    do {
        status = laneway_consumer_recv(consumer, buffer, sizeof buffer, SOON_NS, &len);
    } while (status == LANEWAY_STATUS_CLOSED);
    expect_at(__LINE__, "the successor's message", status, LANEWAY_STATUS_OK);
    CHECK(len == 4 && memcmp(buffer, "next", 4) == 0);
    EXPECT(laneway_producer_detach(next), OK);
    EXPECT(laneway_consumer_detach(consumer), OK);
    EXPECT(laneway_consumer_detach(consumer), INVALID_HANDLE);
    EXPECT(laneway_consumer_recv(consumer, buffer, 8, SOON_NS, &len), INVALID_HANDLE);
}

int main(int argc, char **argv) {
    laneway_producer *producer;
    laneway_consumer *consumer;
    if (argc != 5) {
        return EXIT_FAILURE;
    }
    attaches(argv, &producer, &consumer);
    facts(producer, consumer);
    messages(producer, consumer);
    in_place(producer, consumer);
    many(producer, consumer);
    bad_arguments(producer, consumer);
    bad_handles(producer, consumer);
    ends(argv, producer, consumer);
    puts("all of it");
    return EXIT_SUCCESS;
}
