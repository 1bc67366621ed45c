/* A load generator: POSTs the requests of a file, one after the other, over N connections.
 *
 *   load ADDRESS PORT PATH FILE CONNECTIONS SECONDS keep|close
 *
 * FILE holds one request body a line, in hexadecimal. Prints: answers, seconds, failures, octets.
 *
 * wrk cannot ask "openssl ocsp": it first connects and closes without a word, which makes that
 * responder spin for ever. This one speaks on every connection that it opens, also at the end.
 */
#include "load.h"

enum { ROOM = 65536, HEAD = 512 };

struct peer { int fd; size_t sent, got; struct request *request; char data[ROOM]; };

static int queue, closes, ends, opened;
static long answers, failures, octets;

static void watch(struct peer *peer, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(queue, operation, peer->fd, &event))
        fail("epoll_ctl");
}

static void open_peer(struct peer *peer)
{
    peer->fd = connected(SOCK_NONBLOCK);
    opened++;
    peer->sent = peer->got = 0;
    peer->request = &requests[next++ % count];
    watch(peer, EPOLL_CTL_ADD, EPOLLOUT);
}

static void reopen(struct peer *peer)
{
    close(peer->fd);
    opened--;
    if (!ends)
        open_peer(peer);
}

/* Send what is left of the request. */
static void put(struct peer *peer)
{
    ssize_t done = send(peer->fd, peer->request->data + peer->sent,
                        peer->request->size - peer->sent, MSG_NOSIGNAL);
    if (done < 0) {
        if (errno == EAGAIN)
            return;
        failures++;
        reopen(peer);
        return;
    }
    peer->sent += done;
    if (peer->sent == peer->request->size)
        watch(peer, EPOLL_CTL_MOD, EPOLLIN);
}

static void take(struct peer *peer)
{
    ssize_t done = recv(peer->fd, peer->data + peer->got, ROOM - 1 - peer->got, 0);
    if (done < 0 && errno == EAGAIN)
        return;
    if (done <= 0) {
        failures++;
        reopen(peer);
        return;
    }
    peer->got += done;
    peer->data[peer->got] = 0;
    size_t size = answer_size(peer->data, peer->got);
    if (!size || peer->got < size)
        return;
    if (strncmp(peer->data, "HTTP/1.", 7) || strncmp(peer->data + 8, " 200", 4))
        failures++;
    else
        answers++;
    octets += size;
    if (closes || ends) {
        reopen(peer);
        return;
    }
    peer->sent = peer->got = 0;
    peer->request = &requests[next++ % count];
    watch(peer, EPOLL_CTL_MOD, EPOLLOUT);
    put(peer);
}

/* Put the head of a POST before the body of each request. */
static void complete(const char *path)
{
    for (size_t i = 0; i < count; i++) {
        char head[HEAD];
        struct request *request = &requests[i];
        int size = snprintf(head, HEAD,
                            "POST %s HTTP/1.1\r\nHost: localhost\r\n"
                            "Content-Type: application/ocsp-request\r\n"
                            "Content-Length: %zu\r\n%s\r\n",
                            path, request->size, closes ? "Connection: close\r\n" : "");
        request->data += HEAD - size;
        memcpy(request->data, head, size);
        request->size += size;
    }
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: load ADDRESS PORT PATH FILE CONNECTIONS SECONDS keep|close\n");
        return 2;
    }
    closes = !strcmp(argv[7], "close");
    set_address(argv[1], argv[2]);
    read_requests(argv[4], HEAD);
    complete(argv[3]);
    queue = epoll_create1(0);
    int connections = atoi(argv[5]);
    struct peer *peers = calloc(connections, sizeof *peers);
    for (int i = 0; i < connections; i++)
        open_peer(&peers[i]);
    double begin = now(), end = begin + atof(argv[6]);
    struct epoll_event events[256];
    long counted = 0;
    double measured = 0;
    while (opened && now() < end + 5) {
        if (!ends && now() >= end) {
            ends = 1;
            counted = answers;
            measured = now() - begin;
        }
        int ready = epoll_wait(queue, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                put(peer);
            else
                take(peer);
        }
    }
    printf("%ld %f %ld %ld\n", counted, measured, failures, octets);
    return 0;
}
