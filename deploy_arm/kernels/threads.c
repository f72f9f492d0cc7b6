/* Between two layers lie microseconds, so threads look for the next work some time before they sleep. */
#define _POSIX_C_SOURCE 200809L
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A shared library needs the newest version of what it uses, and these moved from one library of glibc's to another in 2.32 and 2.34.
 * Older boards have them under the names they had first, which newer ones keep. A static program has the newest names alone, so who
 * compiles a shared library for other machines asks for it. */
#if defined(NETWORK_FOR_OLDER_GLIBC) && defined(__aarch64__) && defined(__GLIBC__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.17");
__asm__(".symver pthread_sigmask, pthread_sigmask@GLIBC_2.17");
#endif

enum { LOOKS = 4000 }; /* about ten microseconds */

struct worker {
    struct threads *threads;
    int32_t index;
    pthread_t thread;
};

struct threads {
    int32_t count, started;
    void (*work)(void *argument, int32_t index); /* NULL: end */
    void *argument;
    atomic_uint round; /* changes when there is new work; written under the lock */
    atomic_int left;   /* threads that have not finished it */
    pthread_mutex_t lock;
    pthread_cond_t begun, finished;
    struct worker workers[MAXIMUM_THREADS];
};

static void rest(void) {
#if defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_for_round(struct threads *t, unsigned seen) {
    for (int i = 0; i < LOOKS; i++, rest())
        if (atomic_load_explicit(&t->round, memory_order_acquire) != seen)
            return;
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->round, memory_order_acquire) == seen)
        pthread_cond_wait(&t->begun, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static void *serve(void *given) {
    struct worker *worker = given;
    struct threads *t = worker->threads;
    for (unsigned seen = 0;; seen++) {
        wait_for_round(t, seen);
        if (!t->work)
            return NULL;
        t->work(t->argument, worker->index);
        if (atomic_fetch_sub_explicit(&t->left, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->finished);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

static void announce(struct threads *t, void (*work)(void *argument, int32_t index), void *argument) {
    pthread_mutex_lock(&t->lock);
    t->work = work;
    t->argument = argument;
    atomic_store_explicit(&t->left, t->started, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->round, 1, memory_order_release);
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
}

struct threads *threads_start(int32_t count) {
    struct threads *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->count = count;
    atomic_init(&t->round, 0);
    atomic_init(&t->left, 0);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    pthread_cond_init(&t->finished, NULL);
    /* Signals are the embedding program's: its threads get them, not these. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int32_t i = 1; i < count && t->started == i - 1; i++) {
        t->workers[i] = (struct worker){.threads = t, .index = i};
        t->started += !pthread_create(&t->workers[i].thread, NULL, serve, &t->workers[i]);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (t->started == count - 1)
        return t;
    threads_stop(t);
    return NULL;
}

void threads_run(struct threads *t, void (*work)(void *argument, int32_t index), void *argument) {
    announce(t, work, argument);
    work(argument, 0);
    for (int i = 0; i < LOOKS; i++, rest())
        if (atomic_load_explicit(&t->left, memory_order_acquire) == 0)
            return;
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->left, memory_order_acquire))
        pthread_cond_wait(&t->finished, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void threads_stop(struct threads *t) {
    if (!t)
        return;
    announce(t, NULL, NULL);
    for (int32_t i = 1; i <= t->started; i++)
        pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->begun);
    pthread_cond_destroy(&t->finished);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
