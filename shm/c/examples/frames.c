/* Frozen payloads: frames too large for slots, each behind its caption, the number of it.
 *
 *   laneway lane create frames --slot-size 56 --slots 64 --pinning none \
 *       --producer-uid $(id -u) --consumer-uid $(id -u)
 *   frames SOCKET view frames &
 *   frames SOCKET shoot frames 100 16384
 *
 * A frame has so many KiB. Its file is the message: the viewer looks at the very bytes that the
 * camera wrote, and nobody can change them any more. `shm/examples/frozen_frames.rs` is the same
 * in Rust, and may be either end. Numbers are little-endian, as on every machine it runs on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "laneway.h"

static const uint64_t PATIENCE_NS = 30000000000u;

/* Leaves with the library's word for what went wrong. */
static void well(const char *what, laneway_status status) {
    if (status != LANEWAY_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", what, laneway_error_message());
        exit(EXIT_FAILURE);
    }
}

static void shoot(const char *socket, const char *lane, uint64_t count, size_t frame_bytes) {
    /* Either end may ask for the socket that the files travel on. */
    laneway_attach_options options = {.flags = LANEWAY_ATTACH_LIFELINE};
    laneway_producer *camera;
    laneway_peer viewer = LANEWAY_PEER_ABSENT;
    well("attach", laneway_producer_attach_by_name(socket, lane, &options, &camera));
    /* What is sent to nobody yet dies with this process; what a viewer was sent does not. */
    while (viewer != LANEWAY_PEER_LIVE) {
        well("maintain", laneway_producer_maintain(camera));
        well("peer", laneway_producer_peer(camera, &viewer));
    }
    for (uint64_t number = 0; number < count; number++) {
        laneway_frozen_builder *builder;
        laneway_frozen *frame;
        void *bytes;
        well("caption", laneway_producer_send(camera, &number, sizeof number, PATIENCE_NS));
        well("memory", laneway_frozen_builder_new(frame_bytes, &builder, &bytes));
        for (size_t at = 0; at < frame_bytes; at += sizeof number) {
            memcpy((char *)bytes + at, &number, sizeof number);
        }
        well("freeze", laneway_frozen_builder_freeze(builder, &frame));
        well("frame", laneway_producer_send_frozen(camera, frame, PATIENCE_NS));
        well("release", laneway_frozen_release(frame));
    }
    well("close", laneway_producer_close(camera, PATIENCE_NS));
}

static void is_of(laneway_frozen *frame, uint64_t number) {
    const void *bytes;
    size_t len;
    well("bytes", laneway_frozen_bytes(frame, &bytes, &len));
    for (size_t at = 0; at < len; at += sizeof number) {
        if (memcmp((const char *)bytes + at, &number, sizeof number) != 0) {
            fprintf(stderr, "frame %" PRIu64 " is of other pixels\n", number);
            exit(EXIT_FAILURE);
        }
    }
}

static void view(const char *socket, const char *lane) {
    laneway_consumer *viewer;
    uint64_t captions = 0, frames = 0, lost = 0, position;
    well("attach", laneway_consumer_attach_by_name(socket, lane, NULL, &viewer));
    for (;;) {
        uint64_t number;
        size_t len;
        laneway_frozen *frame;
        laneway_status status = laneway_consumer_recv_any(viewer, &number, sizeof number,
                                                          PATIENCE_NS, &len, &frame);
        if (status == LANEWAY_STATUS_CLOSED) {
            break;
        } else if (status == LANEWAY_STATUS_FROZEN_LOST) {
            /* Its camera died before this viewer was sent it. */
            lost++;
        } else if (well("receive", status), frame != NULL) {
            is_of(frame, frames + lost);
            well("release", laneway_frozen_release(frame));
            frames++;
        } else if (len != sizeof number || number != captions++) {
            fprintf(stderr, "another caption\n");
            exit(EXIT_FAILURE);
        }
    }
    well("position", laneway_consumer_position(viewer, &position));
    printf("%" PRIu64 " captions, %" PRIu64 " frames, %" PRIu64 " lost, %" PRIu64 " slots\n",
           captions, frames, lost, position);
    well("detach", laneway_consumer_detach(viewer));
}

int main(int argc, char **argv) {
    if (argc == 6 && strcmp(argv[2], "shoot") == 0) {
        shoot(argv[1], argv[3], strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10) << 10);
    } else if (argc == 4 && strcmp(argv[2], "view") == 0) {
        view(argv[1], argv[3]);
    } else {
        fprintf(stderr, "usage: frames SOCKET shoot LANE COUNT KIB | ... view LANE\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
