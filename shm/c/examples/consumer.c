/* Receives what `producer` sends, checks every byte, and says how many messages there were.
 *
 *   consumer SOCKET TICKET
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "laneway.h"

enum { MESSAGE_BYTES = 56 };
static const uint64_t PATIENCE_NS = 30000000000u;

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, laneway_error_message());
    return EXIT_FAILURE;
}

static int is_number(const unsigned char *bytes, size_t len, uint64_t number) {
    int same = len == MESSAGE_BYTES;
    for (unsigned i = 0; same && i < MESSAGE_BYTES; i++) {
        same = bytes[i] == (unsigned char)(i < 8 ? number >> (8 * i) : number + i);
    }
    return same;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s SOCKET TICKET\n", argv[0]);
        return EXIT_FAILURE;
    }
    laneway_consumer *consumer;
    if (laneway_consumer_attach(argv[1], argv[2], NULL, &consumer) != LANEWAY_STATUS_OK) {
        return failed("attach");
    }
    for (uint64_t number = 0;; number++) {
        unsigned char bytes[MESSAGE_BYTES];
        size_t len;
        laneway_status status =
            laneway_consumer_recv(consumer, bytes, sizeof bytes, PATIENCE_NS, &len);
        if (status == LANEWAY_STATUS_CLOSED) {
            printf("%" PRIu64 "\n", number);
            break;
        }
        if (status != LANEWAY_STATUS_OK) {
            return failed("receive");
        }
        if (!is_number(bytes, len, number)) {
            fprintf(stderr, "message %" PRIu64 " is another one\n", number);
            return EXIT_FAILURE;
        }
    }
    return laneway_consumer_detach(consumer) == LANEWAY_STATUS_OK ? EXIT_SUCCESS : failed("detach");
}
