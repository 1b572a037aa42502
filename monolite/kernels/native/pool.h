/* A few threads that help whoever calls. */
#ifndef POOL_H
#define POOL_H

#include <stdatomic.h>
#include <sched.h>

/* One step of a job: its pieces are taken one by one, and the step is over when all are done. A
 * helper that comes late finds the pieces taken and goes on; nobody waits for one to arrive. */
typedef struct {
    _Alignas(64) atomic_int next;
    _Alignas(64) atomic_int done;
} Step;

typedef void (*Work)(void *job, int worker);

enum { WORKERS_MAX = 16 };

/* Run `work` here as worker 0 and, where the pool is free, on its threads as workers 1 and up. They
 * have all left when it returns. `work` must be right for any number of workers. */
void pool_run(Work work, void *job);
/* Use that many threads, the caller's included. Threads are started when first needed. */
void pool_resize(int threads);
/* How many those are now. */
int pool_threads(void);

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int step_take(Step *step, int pieces) {
    int piece = atomic_fetch_add_explicit(&step->next, 1, memory_order_relaxed);
    return piece < pieces ? piece : -1;
}

static inline void step_finish(Step *step) {
    atomic_fetch_add_explicit(&step->done, 1, memory_order_release);
}

static inline void step_wait(Step *step, int pieces) {
    for (int spins = 0; atomic_load_explicit(&step->done, memory_order_acquire) < pieces;) {
        pause_briefly();
        if (++spins == 4000) { /* its worker may have lost its core to another process */
            sched_yield();
            spins = 0;
        }
    }
}

/* STEP(step, pieces, i) { body for piece i }  then WAIT: in every worker, in the same order. */
#define STEP(step, pieces, i) \
    for (int i; (i = step_take(step, pieces)) >= 0; step_finish(step))

#endif
