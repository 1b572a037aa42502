/* An HTTP/1.1 load generator: keep-alive connections on one epoll loop, every latency counted.
 *
 *   load -p paths.txt -c 64 -d 5 -w 1 [-m POST] [-b '{"n":{n}}' | -B bodies.txt]
 *        [-H 'name: value']... HOST PORT
 *
 * Each connection sends one request, waits for its whole answer, sends the next: paths are drawn
 * at random from the file (one a line), {n} in the body becomes the request's number. Bodies of
 * a file (one a line) are sent in turn. After -w seconds of warming up it counts for -d seconds and
 * prints one line of JSON, times in microseconds. The histogram has 64 steps for each power of two:
 * percentiles err by under 1.6 %.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, BUFFER = 1 << 16, STEPS = 64, BUCKETS = 36 * STEPS };

typedef struct {
    int fd;
    size_t out_size, out_sent, in_size;
    uint64_t started_ns;
    char out[BUFFER], in[BUFFER];
} Connection;

static Connection *connections, *idle[CONNECTIONS_MAX];
static size_t idle_count;
static double interval_ns, due_ns; /* between requests, where they are paced */
static int epoll, is_counting;
static struct sockaddr_in address;
static const char *method = "GET";
static char headers[8192];
static char **paths, **bodies;
static size_t path_count, body_count;
static uint64_t histogram[BUCKETS], answers, refusals, breaks, bytes, number, latency_max_us;
static uint64_t random_state = 88172645463325252ull;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t random_next(void) { /* xorshift64 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* Values under 2 * STEPS have a bucket each; above, each power of two has STEPS. */
static int bucket_of(uint64_t us) {
    if (us < 2 * STEPS) return (int)us;
    int row = 63 - __builtin_clzll(us) - 6;
    int index = row * STEPS + (int)(us >> row);
    return index < BUCKETS ? index : BUCKETS - 1;
}

static uint64_t bucket_us(int index) {
    if (index < 2 * STEPS) return (uint64_t)index;
    int row = index / STEPS - 1;
    return (uint64_t)(index - row * STEPS) << row;
}

static uint64_t percentile(double share) {
    uint64_t wanted = (uint64_t)(share * (double)answers), seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += histogram[i]) > wanted) return bucket_us(i);
    return latency_max_us;
}

static void watch(Connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event)) fail("epoll_ctl");
}

static void flush(Connection *c) {
    while (c->out_sent < c->out_size) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_size - c->out_sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return; /* any other failure shows as the end of the stream */
        }
        c->out_sent += (size_t)n;
    }
}

static void request(Connection *c) {
    static char made[BUFFER / 2];
    int made_size = 0;
    const char *body = body_count ? bodies[number % body_count] : NULL;
    if (body) {
        const char *hole = strstr(body, "{n}");
        if (hole)
            made_size = snprintf(made, sizeof made, "%.*s%llu%s", (int)(hole - body), body,
                                 (unsigned long long)number, hole + 3);
        else
            made_size = snprintf(made, sizeof made, "%s", body);
    }
    number++;
    int n = snprintf(c->out, BUFFER, "%s %s HTTP/1.1\r\n%s", method,
                     paths[random_next() % path_count], headers);
    if (body) n += snprintf(c->out + n, BUFFER - n, "Content-Length: %d\r\n", made_size);
    n += snprintf(c->out + n, BUFFER - n, "\r\n%.*s", made_size, made);
    c->out_size = (size_t)n;
    c->out_sent = c->in_size = 0;
    c->started_ns = now_ns();
    flush(c);
}

static void open_connection(Connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    request(c);
}

/* The answer's size once it is whole, 0 while it is not. */
static size_t whole_answer(Connection *c) {
    c->in[c->in_size] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    size_t head = (size_t)(end - c->in) + 4;
    for (char *line = strstr(c->in, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            size_t size = head + strtoull(line + 17, NULL, 10);
            return c->in_size >= size ? size : 0;
        }
        if (!strncasecmp(line + 2, "transfer-encoding:", 18))
            return c->in_size >= head + 5 && !memcmp(c->in + c->in_size - 5, "0\r\n\r\n", 5)
                       ? c->in_size : 0;
    }
    return head;
}

static void receive(Connection *c) {
    ssize_t n = recv(c->fd, c->in + c->in_size, BUFFER - 1 - c->in_size, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        breaks++;
        close(c->fd);
        open_connection(c);
        return;
    }
    c->in_size += (size_t)n;
    if (c->in_size == BUFFER - 1) { errno = EMSGSIZE; fail("an answer over 64 KiB"); }
    size_t size = whole_answer(c);
    if (!size) return;
    if (is_counting) {
        uint64_t us = (now_ns() - c->started_ns) / 1000;
        histogram[bucket_of(us)]++;
        if (us > latency_max_us) latency_max_us = us;
        answers++;
        bytes += size;
        if (c->in[9] != '2') {
            if (!refusals++) fprintf(stderr, "load: refused: %.*s\n", 400, c->in);
        }
    }
    if (interval_ns) idle[idle_count++] = c;
    else request(c);
}

/* What is due, counted from when it was: a server that stalls delays the requests behind it too. */
static void send_due(void) {
    while (idle_count && (double)now_ns() >= due_ns) {
        Connection *c = idle[--idle_count];
        request(c);
        c->started_ns = (uint64_t)due_ns;
        due_ns += interval_ns;
    }
}

static void run_until(uint64_t end_ns) {
    struct epoll_event events[CONNECTIONS_MAX];
    while (now_ns() < end_ns) {
        struct timespec most = {0, interval_ns ? (long)(interval_ns / 4) % 1000000000 : 10000000};
        if (interval_ns) send_due();
        int n = epoll_pwait2(epoll, events, CONNECTIONS_MAX, &most, NULL);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                flush(c);
            }
            if (events[i].events & ~EPOLLOUT) receive(c);
        }
    }
}

static void keep(const char *line, char ***lines, size_t *count) {
    *lines = realloc(*lines, (*count + 1) * sizeof **lines);
    (*lines)[(*count)++] = strdup(line);
}

static void read_lines(const char *name, char ***lines, size_t *count) {
    FILE *file = fopen(name, "r");
    static char line[BUFFER / 2];
    if (!file) fail(name);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        keep(line, lines, count);
    }
    fclose(file);
    if (!*count) { errno = EINVAL; fail("no line in the file"); }
}

int main(int count, char **words) {
    int option, connection_count = 64;
    double seconds = 5, warm_up_seconds = 1;
    while ((option = getopt(count, words, "c:d:w:m:b:B:H:p:r:")) != -1) {
        if (option == 'c') connection_count = atoi(optarg);
        else if (option == 'd') seconds = atof(optarg);
        else if (option == 'w') warm_up_seconds = atof(optarg);
        else if (option == 'm') method = optarg;
        else if (option == 'r') interval_ns = 1e9 / atof(optarg);
        else if (option == 'b') keep(optarg, &bodies, &body_count);
        else if (option == 'B') read_lines(optarg, &bodies, &body_count);
        else if (option == 'p') read_lines(optarg, &paths, &path_count);
        else if (option == 'H') { strcat(headers, optarg); strcat(headers, "\r\n"); }
        else return 2;
    }
    if (count - optind != 2 || !paths || connection_count > CONNECTIONS_MAX) {
        fprintf(stderr, "load -p FILE [-c N] [-d S] [-w S] [-r R] [-m M] [-b B | -B FILE] [-H H]..."
                        " HOST PORT\n");
        return 2;
    }
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(words[optind + 1]));
    if (inet_pton(AF_INET, words[optind], &address.sin_addr) != 1) fail(words[optind]);
    sprintf(headers + strlen(headers), "Host: %s:%s\r\n", words[optind], words[optind + 1]);
    epoll = epoll_create1(0);
    connections = calloc((size_t)connection_count, sizeof *connections);
    for (int i = 0; i < connection_count; i++) open_connection(&connections[i]);
    due_ns = (double)now_ns();
    run_until(now_ns() + (uint64_t)(warm_up_seconds * 1e9));
    uint64_t began_ns = now_ns();
    is_counting = 1;
    run_until(began_ns + (uint64_t)(seconds * 1e9));
    double elapsed = (double)(now_ns() - began_ns) / 1e9;
    printf("{\"seconds\":%.6f,\"answers\":%llu,\"refusals\":%llu,\"breaks\":%llu,\"bytes\":%llu",
           elapsed, (unsigned long long)answers, (unsigned long long)refusals,
           (unsigned long long)breaks, (unsigned long long)bytes);
    printf(",\"p50_us\":%llu,\"p90_us\":%llu,\"p99_us\":%llu,\"p999_us\":%llu,\"max_us\":%llu}\n",
           (unsigned long long)percentile(.5), (unsigned long long)percentile(.9),
           (unsigned long long)percentile(.99), (unsigned long long)percentile(.999),
           (unsigned long long)latency_max_us);
    return 0;
}
