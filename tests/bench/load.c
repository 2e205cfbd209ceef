/* A load generator that takes little of the machine it measures: HTTP/1.1, keep-alive, one thread, epoll.
 *
 *   load --port 8080 --bodies FILE [--path /v1/rank] [--connections 1] [--seconds 5] [--requests N]
 *        [--rate R] [--feedback SHARE] [--header "Name: value"] [--trace FILE]
 *
 * Bodies stand one a line and are sent in turn, from the first again after the last. Without --rate the
 * loop is closed: each connection sends again when it has its reply. With it the loop is open: request k
 * is due at k / R, is sent by the next connection that is free, and its latency counts from when it was
 * due, so that a stall is charged to every request that it held up.
 *
 * --feedback sends, for that share of the rankings, a final signal for the item in the first slot, on the
 * connection that got the ranking. The rate counts rankings only.
 *
 * --trace writes a line for every reply, with seconds since the epoch: "R <when> <model version> <event id>
 * <microseconds>" for a ranking, "F <when> <event id>" for feedback, "S <when>" for what was refused with 503,
 * which is counted apart from errors. --header adds a line to every request.
 *
 * Prints one line of JSON; times are microseconds. Exit status 1: it could not work at all.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_REPLY (1 << 20)
#define MAX_ID 300

struct series {
    uint32_t *us;
    size_t n, room;
    size_t errors, shed;
};

struct text {
    char *at;
    size_t n;
};

enum what { IDLE, RANKING, FEEDBACK };

struct connection {
    int fd;
    enum what doing;
    int64_t due; /* ns; when the request that runs should have been sent */
    const char *out;
    size_t out_n, out_at;
    char *in;
    size_t in_n, in_room;
    char feedback[2048];
    size_t feedback_n;
    char event_id[MAX_ID];
};

static struct text *requests;
static size_t n_requests, next_request;
static struct series rankings, feedbacks;
static struct connection *connections;
static int n_connections = 1;
static int port = 8080;
static double rate = 0, seconds = 5, share = 0, owed = 0;
static size_t most = SIZE_MAX, n_started, n_reconnects;
static size_t max_behind;
static int poll_fd, timer_fd = -1;
static int64_t began, ends;
static FILE *trace;
static const char *header = "";
static uint64_t draw = 88172645463325252ull;

static void die(const char *what)
{
    fprintf(stderr, "load: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static double wall_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void record(struct series *s, int64_t ns)
{
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 1 << 16;
        s->us = realloc(s->us, s->room * sizeof *s->us);
        if (!s->us)
            die("no memory");
    }
    int64_t us = ns / 1000;
    s->us[s->n++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void load_bodies(const char *file, const char *path)
{
    FILE *f = fopen(file, "r");
    if (!f)
        die(file);
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    while ((n = getline(&line, &room, f)) > 0) {
        if (line[n - 1] == '\n')
            n--;
        if (!n)
            continue;
        requests = realloc(requests, (n_requests + 1) * sizeof *requests);
        struct text *t = &requests[n_requests++];
        t->at = malloc(n + 512);
        int head = sprintf(t->at,
                           "POST %.200s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                           "%.200s%sContent-Length: %zd\r\n\r\n",
                           path, header, *header ? "\r\n" : "", n);
        memcpy(t->at + head, line, n);
        t->n = head + n;
    }
    free(line);
    fclose(f);
    if (!n_requests)
        die("no request bodies");
}

static void open_connection(struct connection *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to))
        die("cannot connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->doing = IDLE;
    c->in_n = 0;
    if (!c->in) {
        c->in_room = 1 << 16;
        c->in = malloc(c->in_room + 1);
    }
}

static void finish(struct connection *c, int ok)
{
    struct series *s = c->doing == RANKING ? &rankings : &feedbacks;
    if (ok)
        record(s, now_ns() - c->due);
    else
        s->errors++;
    c->doing = IDLE;
    c->in_n = 0;
}

static void lost(struct connection *c)
{
    if (c->doing != IDLE)
        finish(c, 0);
    close(c->fd);
    n_reconnects++;
    open_connection(c);
}

static void push(struct connection *c)
{
    while (c->out_at < c->out_n) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_n - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
            return;
        }
        if (n < 0) {
            lost(c);
            return;
        }
        c->out_at += n;
        if (c->out_at == c->out_n) {
            struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
        }
    }
}

static void start(struct connection *c, enum what what, const char *out, size_t n, int64_t due)
{
    c->doing = what;
    c->due = due;
    c->out = out;
    c->out_n = n;
    c->out_at = 0;
    c->in_n = 0;
    push(c);
}

/* When ranking k is due; the closed loop has none. */
static int64_t due_at(size_t k)
{
    return began + (int64_t)(k * 1e9 / rate);
}

/* Whether another ranking is to be sent. What was due in time is sent even if its turn comes late. */
static int may_start(int64_t now)
{
    return n_started < most && (rate > 0 ? due_at(n_started) : now) < ends;
}

static void take_next(struct connection *c)
{
    int64_t now = now_ns(), due = now;
    if (c->doing != IDLE || !may_start(now))
        return;
    if (rate > 0) {
        due = due_at(n_started);
        if (due > now)
            return;
        size_t behind = (size_t)((now - began) / 1e9 * rate) - n_started;
        if (behind > max_behind && behind < SIZE_MAX / 2)
            max_behind = behind;
    }
    struct text *t = &requests[next_request];
    next_request = (next_request + 1) % n_requests;
    n_started++;
    start(c, RANKING, t->at, t->n, due);
}

static struct connection *idle_connection(void)
{
    for (int i = 0; i < n_connections; i++)
        if (connections[i].doing == IDLE)
            return &connections[i];
    return NULL;
}

/* Start what is due; wake up when the next is, or, if none is free, when a connection is. */
static void keep_pace(void)
{
    static int64_t armed_for;
    while (may_start(now_ns())) {
        int64_t due = due_at(n_started);
        if (due > now_ns()) {
            struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
            if (due != armed_for)
                timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
            armed_for = due;
            return;
        }
        struct connection *free = idle_connection();
        if (!free)
            return;
        take_next(free);
    }
}

/* The string that follows `key` in JSON that has no escapes there; empty if it is not there. */
static int text_after(const char *in, const char *key, char *out)
{
    out[0] = 0;
    const char *at = strstr(in, key);
    if (!at)
        return 0;
    at += strlen(key);
    const char *end = strchr(at, '"');
    if (!end || end - at >= MAX_ID)
        return 0;
    memcpy(out, at, end - at);
    out[end - at] = 0;
    return 1;
}

static void tell(struct connection *c, const char *body)
{
    char id[MAX_ID];
    if (!text_after(body, "\"id\":\"", id))
        return;
    draw ^= draw << 13, draw ^= draw >> 7, draw ^= draw << 17;
    char json[1024];
    int n = snprintf(json, sizeof json,
                     "{\"event_id\":\"%s\",\"items\":[{\"id\":\"%s\",\"signals\":{\"watch_s\":%.1f},\"final\":true}]}",
                     c->event_id, id, (draw >> 40) % 600 / 10.0);
    c->feedback_n = snprintf(c->feedback, sizeof c->feedback,
                             "POST /v1/feedback HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                             "%.200s%sContent-Length: %d\r\n\r\n%s",
                             header, *header ? "\r\n" : "", n, json);
    start(c, FEEDBACK, c->feedback, c->feedback_n, now_ns());
}

static void handle(struct connection *c, int status, const char *body)
{
    enum what was = c->doing;
    int ok = status >= 200 && status < 300;
    int64_t took = now_ns() - c->due;
    if (status == 503) {
        (was == RANKING ? &rankings : &feedbacks)->shed++;
        c->doing = IDLE;
        c->in_n = 0;
        if (trace)
            fprintf(trace, "S %.6f\n", wall_s());
    } else
        finish(c, ok);
    if (ok && was == RANKING) {
        if (trace) {
            char version[MAX_ID], id[MAX_ID];
            double at = wall_s();
            text_after(body, "\"model_version\":\"", version);
            text_after(body, "\"event_id\":\"", id);
            fprintf(trace, "R %.6f %s %s %lld\n", at, version[0] ? version : "none", id, (long long)(took / 1000));
        }
        owed += share;
        if (owed >= 1 && text_after(body, "\"event_id\":\"", c->event_id)) {
            owed -= 1;
            tell(c, body);
        }
    } else if (ok && was == FEEDBACK && trace)
        fprintf(trace, "F %.6f %s\n", wall_s(), c->event_id);
    take_next(c);
}

/* Bytes of headers, status and body length of the reply that begins the buffer; 0 if it is not whole yet. */
static size_t head_of(struct connection *c, int *status, size_t *body_n)
{
    c->in[c->in_n] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    if (sscanf(c->in, "HTTP/1.%*d %d", status) != 1)
        die("no HTTP reply");
    *body_n = 0;
    int found = *status == 204;
    for (char *line = strstr(c->in, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            *body_n = strtoul(line + 17, NULL, 10);
            found = 1;
        }
    if (!found)
        die("a reply without Content-Length");
    return end + 4 - c->in;
}

static void pull(struct connection *c)
{
    for (;;) {
        if (c->in_n == c->in_room) {
            if (c->in_room >= MAX_REPLY)
                die("a reply is too large");
            c->in_room *= 2;
            c->in = realloc(c->in, c->in_room + 1);
        }
        ssize_t n = recv(c->fd, c->in + c->in_n, c->in_room - c->in_n, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            lost(c);
            return;
        }
        c->in_n += n;
        int status;
        size_t body_n, head = head_of(c, &status, &body_n);
        if (head && c->in_n >= head + body_n && c->doing != IDLE) {
            handle(c, status, c->in + head);
            return;
        }
    }
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_series(const char *name, struct series *s)
{
    qsort(s->us, s->n, sizeof *s->us, ascending);
    double sum = 0;
    for (size_t i = 0; i < s->n; i++)
        sum += s->us[i];
    printf("\"%s\": {\"count\": %zu, \"errors\": %zu, \"shed\": %zu", name, s->n, s->errors, s->shed);
    if (s->n) {
        printf(", \"mean\": %.1f, \"p10\": %u, \"p50\": %u, \"p90\": %u, \"p99\": %u, \"p999\": %u, \"max\": %u",
               sum / s->n, s->us[s->n / 10], s->us[s->n / 2], s->us[s->n * 9 / 10], s->us[s->n * 99 / 100],
               s->us[(size_t)(s->n * 0.999)], s->us[s->n - 1]);
    }
    printf("}");
}

int main(int argc, char **argv)
{
    const char *path = "/v1/rank", *bodies = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--path"))
            path = value;
        else if (!strcmp(name, "--bodies"))
            bodies = value;
        else if (!strcmp(name, "--connections"))
            n_connections = atoi(value);
        else if (!strcmp(name, "--seconds"))
            seconds = atof(value);
        else if (!strcmp(name, "--requests"))
            most = strtoull(value, NULL, 10), seconds = 1e6;
        else if (!strcmp(name, "--rate"))
            rate = atof(value);
        else if (!strcmp(name, "--feedback"))
            share = atof(value);
        else if (!strcmp(name, "--header"))
            header = value;
        else if (!strcmp(name, "--trace")) {
            trace = fopen(value, "w");
            if (!trace)
                die(value);
        } else {
            fprintf(stderr, "load: what is %s?\n", name);
            return 1;
        }
    }
    if (!bodies || n_connections < 1) {
        fprintf(stderr, "load: --bodies FILE is needed, and a connection\n");
        return 1;
    }
    load_bodies(bodies, path);
    prctl(PR_SET_TIMERSLACK, 1);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(n_connections, sizeof *connections);
    for (int i = 0; i < n_connections; i++)
        open_connection(&connections[i]);
    began = now_ns();
    ends = began + (int64_t)(seconds * 1e9);
    if (rate > 0) {
        timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    }
    for (int i = 0; rate <= 0 && i < n_connections; i++)
        take_next(&connections[i]);
    if (rate > 0)
        keep_pace();

    int64_t give_up = 0;
    for (;;) {
        int busy = 0;
        for (int i = 0; i < n_connections; i++)
            busy += connections[i].doing != IDLE;
        int64_t now = now_ns();
        if (!may_start(now)) {
            if (!busy)
                break;
            if (!give_up)
                give_up = now + 30000000000ll;
            if (now > give_up) {
                fprintf(stderr, "load: %d requests are still unanswered after 30 s\n", busy);
                rankings.errors += busy;
                break;
            }
        }
        struct epoll_event events[64];
        int n = epoll_wait(poll_fd, events, 64, 100);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                uint64_t ticks;
                if (read(timer_fd, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
                    die("timer");
                continue;
            }
            if (events[i].events & EPOLLOUT)
                push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                pull(c);
            take_next(c);
        }
        if (rate > 0)
            keep_pace();
    }
    double took = (now_ns() - began) / 1e9;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    if (trace)
        fclose(trace);
    printf("{\"seconds\": %.4f, \"rate\": %.2f, \"reconnects\": %zu, \"max_behind\": %zu, \"cpu_s\": %.4f, ", took,
           rankings.n / took, n_reconnects, max_behind,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    print_series("rankings", &rankings);
    printf(", ");
    print_series("feedback", &feedbacks);
    printf("}\n");
    return 0;
}
