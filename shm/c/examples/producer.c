/* Sends numbered messages of 56 bytes, written in place, and ends the stream.
 *
 *   producer SOCKET TICKET COUNT
 */
#include <stdio.h>
#include <stdlib.h>

#include "laneway.h"

enum { MESSAGE_BYTES = 56 };
static const uint64_t PATIENCE_NS = 30000000000u;

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, laneway_error_message());
    return EXIT_FAILURE;
}

/* The number, and bytes that follow from it. */
static void fill(unsigned char *bytes, uint64_t number) {
    for (unsigned i = 0; i < MESSAGE_BYTES; i++) {
        bytes[i] = (unsigned char)(i < 8 ? number >> (8 * i) : number + i);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s SOCKET TICKET COUNT\n", argv[0]);
        return EXIT_FAILURE;
    }
    laneway_producer *producer;
    if (laneway_producer_attach(argv[1], argv[2], NULL, &producer) != LANEWAY_STATUS_OK) {
        return failed("attach");
    }
    uint64_t count = strtoull(argv[3], NULL, 10);
    for (uint64_t number = 0; number < count; number++) {
        void *place;
        if (laneway_producer_reserve(producer, MESSAGE_BYTES, PATIENCE_NS, &place)
            != LANEWAY_STATUS_OK) {
            return failed("reserve");
        }
        fill(place, number);
        if (laneway_producer_commit(producer, MESSAGE_BYTES) != LANEWAY_STATUS_OK) {
            return failed("commit");
        }
    }
    if (laneway_producer_close(producer, PATIENCE_NS) != LANEWAY_STATUS_OK) {
        return failed("close");
    }
    return EXIT_SUCCESS;
}
