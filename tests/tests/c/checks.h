/* What the programs here expect; the first thing that is not so ends the program with its line. */
#ifndef CHECKS_H
#define CHECKS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "laneway.h"

static inline void expect_at(int line, const char *what, laneway_status found,
                             laneway_status expected) {
    if (found != expected) {
        fprintf(stderr, "line %d: %s is %d and not %d: %s\n", line, what, (int)found,
                (int)expected, laneway_error_message());
        exit(EXIT_FAILURE);
    }
}

static inline void check_at(int line, const char *what, int holds) {
    if (!holds) {
        fprintf(stderr, "line %d: not so: %s (%s)\n", line, what, laneway_error_message());
        exit(EXIT_FAILURE);
    }
}

#define EXPECT(call, status) expect_at(__LINE__, #call, call, LANEWAY_STATUS_##status)
#define CHECK(what) check_at(__LINE__, #what, what)
#define SAYS(text) check_at(__LINE__, text, strstr(laneway_error_message(), text) != NULL)

#endif
