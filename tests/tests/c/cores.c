/* What the ends of a lane know of each other's cores, as numbers: the relation that each was
 * granted, and the producer's distance.
 *
 *   cores SOCKET PRODUCER_TICKET CONSUMER_TICKET
 */
#include "checks.h"
#include "laneway.h"

int main(int argc, char **argv) {
    laneway_producer *producer;
    laneway_consumer *consumer;
    laneway_relation sent, received;
    laneway_distance distance;
    laneway_attach_options options = {.flags = LANEWAY_ATTACH_NO_PIN};
    if (argc != 4) {
        return EXIT_FAILURE;
    }
    EXPECT(laneway_producer_attach(argv[1], argv[2], &options, &producer), OK);
    EXPECT(laneway_consumer_attach(argv[1], argv[3], &options, &consumer), OK);
    EXPECT(laneway_producer_relation(producer, &sent), OK);
    EXPECT(laneway_consumer_relation(consumer, &received), OK);
    EXPECT(laneway_producer_distance(producer, &distance), OK);
    printf("%d %d %d\n", (int)sent, (int)received, (int)distance);
    EXPECT(laneway_producer_detach(producer), OK);
    EXPECT(laneway_consumer_detach(consumer), OK);
    return EXIT_SUCCESS;
}
