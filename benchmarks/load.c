/* A load generator: POSTs the requests of a file, one after the other, over N connections.
 *
 *   load ADDRESS PORT PATH FILE CONNECTIONS SECONDS keep|close
 *
 * FILE holds one request body a line, in hexadecimal. Prints: answers, seconds, failures, octets.
 *
 * wrk cannot ask "openssl ocsp": it first connects and closes without a word, which makes that
 * responder spin for ever. This one speaks on every connection that it opens, also at the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 65536 };

struct request { char *data; size_t size; };
struct peer { int fd; size_t sent, got; struct request *request; char data[ROOM]; };

static struct request *requests;
static size_t count, next;
static struct sockaddr_in address;
static int queue, closes, ends, opened;
static long answers, failures, octets;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void watch(struct peer *peer, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(queue, operation, peer->fd, &event)) {
        perror("epoll_ctl");
        exit(1);
    }
}

static void open_peer(struct peer *peer)
{
    int on = 1;
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (peer->fd < 0) {
        perror("socket");
        exit(1);
    }
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(peer->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        perror("connect");
        exit(1);
    }
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

/* Return the size of the whole answer, 0 while that is not known. */
static size_t whole(struct peer *peer)
{
    char *end = memmem(peer->data, peer->got, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    char *length = strcasestr(peer->data, "\ncontent-length:");
    size_t size = end + 4 - peer->data + (length ? strtoul(length + 16, NULL, 10) : 0);
    *end = '\r';
    return size;
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
    size_t size = whole(peer);
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

static void load(const char *path, const char *name)
{
    static char line[32768];
    FILE *file = fopen(name, "r");
    if (!file) {
        perror(name);
        exit(1);
    }
    size_t room = 0;
    while (fgets(line, sizeof line, file)) {
        size_t size = strcspn(line, "\n") / 2;
        if (count == room)
            requests = realloc(requests, (room = room ? 2 * room : 1024) * sizeof *requests);
        struct request *request = &requests[count++];
        request->data = malloc(512 + size);
        int head = snprintf(request->data, 512,
                            "POST %s HTTP/1.1\r\nHost: localhost\r\n"
                            "Content-Type: application/ocsp-request\r\n"
                            "Content-Length: %zu\r\n%s\r\n",
                            path, size, closes ? "Connection: close\r\n" : "");
        for (size_t at = 0; at < size; at++) {
            unsigned octet;
            sscanf(line + 2 * at, "%2x", &octet);
            request->data[head + at] = octet;
        }
        request->size = head + size;
    }
    fclose(file);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: load ADDRESS PORT PATH FILE CONNECTIONS SECONDS keep|close\n");
        return 2;
    }
    closes = !strcmp(argv[7], "close");
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    load(argv[3], argv[4]);
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
