#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

/* A helper spins this often, some 50 microseconds, before it sleeps: the next call often follows. */
enum { SPINS = 2000 };

static pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int sleepers;
static atomic_int wanted = 1;
static int started = 1;
static atomic_uint published; /* counts jobs */
static atomic_uint open_job;  /* the one that may be entered; 0: none */
static atomic_int inside;     /* helpers that may be in a job */
static Work current_work;
static void *current_job;

static unsigned wait_for_job(unsigned seen) {
    unsigned now;
    for (int spins = 0; (now = atomic_load(&published)) == seen;) {
        pause_briefly();
        if (++spins < SPINS) continue;
        pthread_mutex_lock(&sleep_lock);
        sleepers++;
        while ((now = atomic_load(&published)) == seen) pthread_cond_wait(&wake, &sleep_lock);
        sleepers--;
        pthread_mutex_unlock(&sleep_lock);
    }
    return now;
}

static void *helper(void *argument) {
    int worker = (int)(intptr_t)argument;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_job(seen);
        /* First in, then look: the owner closes the job first and looks for helpers then. */
        atomic_fetch_add(&inside, 1);
        if (atomic_load(&open_job) == seen && worker < wanted) current_work(current_job, worker);
        atomic_fetch_sub(&inside, 1);
    }
    return 0;
}

/* A child of fork has none of the threads, and locks as they happened to be. */
static void forget_helpers(void) {
    pthread_mutex_init(&in_use, 0);
    pthread_mutex_init(&sleep_lock, 0);
    pthread_cond_init(&wake, 0);
    sleepers = 0;
    started = 1;
    atomic_store(&inside, 0);
    atomic_store(&open_job, 0);
}

static void start_helpers(void) {
    static int registered;
    if (!registered) registered = !pthread_atfork(0, 0, forget_helpers);
    /* The process's signals are for its own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    while (started < wanted && !pthread_create(&thread, &attributes, helper, (void *)(intptr_t)started))
        started++;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

void pool_run(Work work, void *job) {
    if (wanted < 2 || pthread_mutex_trylock(&in_use)) {
        work(job, 0);
        return;
    }
    if (started < wanted) start_helpers();
    current_work = work;
    current_job = job;
    unsigned number = atomic_load(&published) + 1;
    if (!number) number = 1;
    atomic_store(&open_job, number);
    pthread_mutex_lock(&sleep_lock);
    atomic_store(&published, number);
    if (sleepers) pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&sleep_lock);
    work(job, 0);
    atomic_store(&open_job, 0);
    for (int spins = 0; atomic_load(&inside);) {
        pause_briefly();
        if (++spins == 4000) {
            sched_yield();
            spins = 0;
        }
    }
    pthread_mutex_unlock(&in_use);
}

int pool_threads(void) { return wanted; }

void pool_resize(int threads) {
    if (threads < 1) threads = 1;
    if (threads > WORKERS_MAX) threads = WORKERS_MAX;
    pthread_mutex_lock(&in_use);
    wanted = threads;
    pthread_mutex_unlock(&in_use);
}
