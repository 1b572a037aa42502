/* Scripted connections on one epoll loop: send bytes, wait for a marker in what comes, send the next.
 *
 *   relay_load each SCRIPTS SKIP HOST PORT
 *       every script is a connection of its own. When all have done their first step they go on
 *       together; after SKIP steps of each its latencies count. Prints one line of JSON.
 *   relay_load all SCRIPTS COUNT HOST PORT
 *       the first script is the writer's, the second the listeners': COUNT connections do its first
 *       step and listen. Prints "listening" and waits for a line on stdin. Then the writer does its
 *       steps; a step is over when every listener saw its marker. Prints how long each step took
 *       for the listener in the middle and for the last, in microseconds.
 *
 * SCRIPTS is u32 count, then for each script u32 steps, then for each step u32 size, bytes to send,
 * u32 size, marker. It knows no protocol: handshakes and frames are in the bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { READ = 1 << 16, TAIL = 256, STUCK_S = 20 };

typedef struct { const uint8_t *out, *marker; uint32_t out_size, marker_size; } Step;
typedef struct { Step *steps; uint32_t count; } Script;
typedef struct {
    int fd;
    const Script *script;
    uint32_t step;
    size_t sent, tail_size;
    uint64_t started_ns;
    uint8_t tail[TAIL];
} Connection;

static int epoll;
static struct sockaddr_in address;
static Script *scripts;
static uint32_t script_count;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "relay_load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint32_t number(const uint8_t **at) {
    uint32_t value;
    memcpy(&value, *at, 4);
    *at += 4;
    return value;
}

static void read_scripts(const char *name) {
    struct stat info;
    int fd = open(name, O_RDONLY);
    if (fd < 0 || fstat(fd, &info)) fail(name);
    const uint8_t *at = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) fail("mmap");
    script_count = number(&at);
    scripts = calloc(script_count, sizeof *scripts);
    for (uint32_t s = 0; s < script_count; s++) {
        scripts[s].count = number(&at);
        scripts[s].steps = calloc(scripts[s].count, sizeof(Step));
        for (uint32_t i = 0; i < scripts[s].count; i++) {
            Step *step = &scripts[s].steps[i];
            step->out_size = number(&at), step->out = at, at += step->out_size;
            step->marker_size = number(&at), step->marker = at, at += step->marker_size;
            if (step->marker_size > TAIL) { errno = EINVAL; fail("a marker over 256 bytes"); }
        }
    }
}

static void watch(Connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event)) fail("epoll_ctl");
}

static void flush(Connection *c) {
    const Step *step = &c->script->steps[c->step];
    while (c->sent < step->out_size) {
        ssize_t n = send(c->fd, step->out + c->sent, step->out_size - c->sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno != EAGAIN) fail("send");
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        c->sent += (size_t)n;
    }
}

static void begin(Connection *c, uint32_t step) {
    c->step = step;
    c->sent = c->tail_size = 0;
    c->started_ns = now_ns();
    flush(c);
}

static void open_connection(Connection *c, const Script *script) {
    int one = 1;
    c->script = script;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

/* Whether the marker is in what came; it may lie across two reads. */
static int sees(Connection *c, const uint8_t *marker, size_t size) {
    static uint8_t buffer[TAIL + READ];
    for (;;) {
        memcpy(buffer, c->tail, c->tail_size);
        ssize_t n = recv(c->fd, buffer + c->tail_size, READ, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return 0;
        if (n <= 0) fail("the server closed a connection");
        size_t total = c->tail_size + (size_t)n;
        int found = size && memmem(buffer, total, marker, size) != NULL;
        size_t kept = size ? size - 1 : 0;
        if (kept > total || found) kept = found ? 0 : total;
        memcpy(c->tail, buffer + total - kept, kept);
        c->tail_size = kept;
        if (found) return 1;
        if (n < READ) return 0;
    }
}

static void drain(Connection *c) { sees(c, (const uint8_t *)"", 0); }

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int next_events(struct epoll_event *events, int count, uint64_t progress_ns) {
    int n = epoll_wait(epoll, events, count, 1000);
    if (!n && now_ns() - progress_ns > STUCK_S * 1000000000ull) {
        errno = ETIMEDOUT;
        fail("no marker came");
    }
    return n < 0 ? 0 : n;
}

static void each(uint32_t skip) {
    Connection *connections = calloc(script_count, sizeof *connections);
    uint64_t total = 0, counted = 0, began_ns = 0, ended_ns, progress_ns = now_ns();
    for (uint32_t i = 0; i < script_count; i++) total += scripts[i].count - 1;
    uint64_t *latencies = calloc(total, sizeof *latencies);
    struct epoll_event events[1024];
    for (uint32_t i = 0; i < script_count; i++) {
        open_connection(&connections[i], &scripts[i]);
        begin(&connections[i], 0);
    }
    uint32_t waiting = script_count, left = script_count, warming = script_count;
    while (left) {
        int n = next_events(events, 1024, progress_ns);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                flush(c);
            }
            const Step *step = &c->script->steps[c->step];
            if (!(events[i].events & ~EPOLLOUT) || !sees(c, step->marker, step->marker_size)) continue;
            progress_ns = now_ns();
            if (c->step == 0) {
                if (--waiting) continue;
                for (uint32_t k = 0; k < script_count; k++) begin(&connections[k], 1);
                continue;
            }
            if (c->step > skip && !warming) latencies[counted++] = (progress_ns - c->started_ns) / 1000;
            if (c->step == skip && !--warming) began_ns = progress_ns;
            if (c->step + 1 < c->script->count) begin(c, c->step + 1);
            else if (left-- == script_count) {
                /* From here on fewer than all are at work: what follows is not counted. */
                ended_ns = progress_ns;
                uint64_t done = counted;
                qsort(latencies, done, sizeof *latencies, compare);
                printf("{\"answers\":%llu,\"seconds\":%.6f,\"p50_us\":%llu,\"p99_us\":%llu}\n",
                       (unsigned long long)done, (double)(ended_ns - began_ns) / 1e9,
                       (unsigned long long)latencies[done / 2],
                       (unsigned long long)latencies[done * 99 / 100]);
                fflush(stdout);
                return;
            }
        }
    }
}

static void all(uint32_t count) {
    Connection *listeners = calloc(count, sizeof *listeners), writer = {0};
    struct epoll_event events[1024];
    uint64_t progress_ns = now_ns(), *times = calloc(count, sizeof *times);
    const Step *ready = &scripts[1].steps[0];
    open_connection(&writer, &scripts[0]);
    begin(&writer, 0);
    uint8_t *seen = calloc(count, 1);
    /* Some at a time: thousands of connections at once overflow the server's backlog. */
    for (uint32_t opened = 0, done = 0; done < count || writer.started_ns;) {
        while (!writer.started_ns && opened < count && opened - done < 64) {
            open_connection(&listeners[opened], &scripts[1]);
            begin(&listeners[opened++], 0);
        }
        int n = next_events(events, 1024, progress_ns);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (c == &writer) {
                if (writer.started_ns && sees(c, scripts[0].steps[0].marker, scripts[0].steps[0].marker_size))
                    writer.started_ns = 0;
                continue;
            }
            if (seen[c - listeners]) drain(c);
            else if (sees(c, ready->marker, ready->marker_size)) {
                seen[c - listeners] = 1;
                done++;
                progress_ns = now_ns();
            }
        }
    }
    printf("listening\n");
    fflush(stdout);
    if (getchar() == EOF) exit(0);
    printf("{\"steps\":[");
    for (uint32_t s = 1; s < scripts[0].count; s++) {
        const Step *step = &scripts[0].steps[s];
        struct timespec pause = {0, 30000000};
        nanosleep(&pause, NULL);
        memset(seen, 0, count);
        for (uint32_t i = 0; i < count; i++) listeners[i].tail_size = 0;
        uint64_t began_ns = progress_ns = now_ns();
        begin(&writer, s);
        for (uint32_t left = count; left;) {
            int n = next_events(events, 1024, progress_ns);
            for (int i = 0; i < n; i++) {
                Connection *c = events[i].data.ptr;
                if (c == &writer) {
                    if (events[i].events & EPOLLOUT) {
                        watch(c, EPOLL_CTL_MOD, EPOLLIN);
                        flush(c);
                    }
                    drain(c);
                    continue;
                }
                if (seen[c - listeners]) {
                    drain(c);
                    continue;
                }
                if (!sees(c, step->marker, step->marker_size)) continue;
                seen[c - listeners] = 1;
                times[--left] = ((progress_ns = now_ns()) - began_ns) / 1000;
            }
        }
        qsort(times, count, sizeof *times, compare);
        printf("%s[%llu,%llu]", s > 1 ? "," : "", (unsigned long long)times[count / 2],
               (unsigned long long)times[count - 1]);
    }
    printf("]}\n");
    fflush(stdout);
}

int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "relay_load each SCRIPTS SKIP HOST PORT | all SCRIPTS COUNT HOST PORT\n");
        return 2;
    }
    read_scripts(words[2]);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(words[5]));
    if (inet_pton(AF_INET, words[4], &address.sin_addr) != 1) fail(words[4]);
    epoll = epoll_create1(0);
    if (!strcmp(words[1], "each")) each((uint32_t)atoi(words[3]));
    else all((uint32_t)atoi(words[3]));
    return 0;
}
