/* A small pool of threads that wait for work. Nothing here is started unless more than one thread is asked for. */
#ifndef THREADS_H
#define THREADS_H

#include <stdint.h>

enum { MAXIMUM_THREADS = 8 };

struct threads;

/* ``count`` threads, 2 to MAXIMUM_THREADS, the caller being one of them; NULL where they cannot be started. */
struct threads *threads_start(int32_t count);

/* Calls ``work(argument, i)`` once for each i below the number of threads, at the same time, and returns when all have. */
void threads_run(struct threads *threads, void (*work)(void *argument, int32_t index), void *argument);

/* Ends and frees them. NULL is allowed. */
void threads_stop(struct threads *threads);

#endif
