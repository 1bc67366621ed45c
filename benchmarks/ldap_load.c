/* A load generator for LDAP: sends the searches of a file, one after the other, over N connections.
 *
 *   ldap_load ADDRESS PORT FILE CONNECTIONS SECONDS
 *
 * FILE holds one request a line, in hexadecimal: whole LDAPMessages. A connection has one of them
 * under way at a time. Prints: answers, seconds, entries, answers without success, octets, and
 * the median and the 99th percentile of the time that an answer took, in microseconds.
 */
#include "load.h"

enum { ROOM = 1 << 20, KEPT = 1 << 22, ENTRY = 0x64, DONE = 0x65 };

struct peer { int fd; size_t got; double since; unsigned char *data; };

static size_t kept;
static long answers, entries, failures, octets;
static float times[KEPT];

static void ask(struct peer *peer)
{
    struct request *request = &requests[next++ % count];
    peer->since = now();
    if (send(peer->fd, request->data, request->size, 0) != (ssize_t)request->size)
        fail("send");
}

/* The size of the TLV at data, and where its content begins; 0 while it is not known. */
static size_t whole(const unsigned char *data, size_t got, size_t *content)
{
    size_t size, more, i;
    if (got < 2)
        return 0;
    if (data[1] < 0x80) {
        *content = 2;
        return 2 + data[1];
    }
    more = data[1] & 0x7f;
    if (more > 4)
        fail("length");
    if (got < 2 + more)
        return 0;
    for (size = i = 0; i < more; i++)
        size = size << 8 | data[2 + i];
    *content = 2 + more;
    return 2 + more + size;
}

/* Count one message; return whether it ends the search. */
static int count_message(const unsigned char *data, size_t size)
{
    size_t at, inner;
    whole(data, size, &at);
    at += 2 + data[at + 1]; /* messageID */
    if (data[at] == ENTRY) {
        entries++;
        return 0;
    }
    if (data[at] != DONE)
        return 0;
    whole(data + at, size - at, &inner);
    failures += data[at + inner + 2] != 0;
    return 1;
}

static void hear(struct peer *peer)
{
    size_t size, content, used = 0;
    ssize_t more = recv(peer->fd, peer->data + peer->got, ROOM - peer->got, 0);
    if (more <= 0) {
        if (more < 0 && errno == EAGAIN)
            return;
        fail("the server has closed a connection");
    }
    octets += more;
    peer->got += more;
    while ((size = whole(peer->data + used, peer->got - used, &content)) &&
           size <= peer->got - used) {
        if (count_message(peer->data + used, size)) {
            answers++;
            if (kept < KEPT)
                times[kept++] = (now() - peer->since) * 1e6;
            ask(peer);
        }
        used += size;
    }
    memmove(peer->data, peer->data + used, peer->got - used);
    peer->got -= used;
    if (peer->got == ROOM)
        fail("a message is too long");
}

static int by_size(const void *one, const void *other)
{
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    struct epoll_event events[64];
    int queue = epoll_create1(0), connections, i, ready;
    double begin, end;
    if (argc != 6)
        return 2;
    set_address(argv[1], argv[2]);
    read_requests(argv[3], 0);
    connections = atoi(argv[4]);
    begin = now();
    end = begin + atof(argv[5]);
    for (i = 0; i < connections; i++) {
        struct peer *peer = calloc(1, sizeof *peer);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        peer->data = malloc(ROOM);
        peer->fd = connected(0);
        epoll_ctl(queue, EPOLL_CTL_ADD, peer->fd, &event);
        ask(peer);
    }
    while (now() < end) {
        ready = epoll_wait(queue, events, 64, 1000);
        for (i = 0; i < ready; i++)
            hear(events[i].data.ptr);
    }
    end = now();
    qsort(times, kept, sizeof *times, by_size);
    printf("%ld %.3f %ld %ld %ld %.0f %.0f\n", answers, end - begin, entries, failures, octets,
           kept ? times[kept / 2] : 0.0, kept ? times[kept * 99 / 100] : 0.0);
    return 0;
}
