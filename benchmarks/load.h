/* What the load generators over TCP share: the requests of a file, connections, the clock. */
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

struct request { char *data; size_t size; };

static struct request *requests;
static size_t count, next;
static struct sockaddr_in address = {.sin_family = AF_INET};

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

static inline void set_address(const char *host, const char *port)
{
    address.sin_port = htons(atoi(port));
    inet_pton(AF_INET, host, &address.sin_addr);
}

/* Open a connection; with SOCK_NONBLOCK it may still be under way. */
static inline int connected(int flags)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0)
        fail("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect");
    return fd;
}

/* Read a file with one request a line, in hexadecimal; leave so much room before each. */
static inline void read_requests(const char *name, size_t before)
{
    size_t room = 0, most = 0;
    char *line = NULL;
    FILE *file = fopen(name, "r");
    if (!file)
        fail(name);
    while (getline(&line, &room, file) > 1) {
        if (count == most)
            requests = realloc(requests, (most = 2 * most + 1024) * sizeof *requests);
        struct request *request = &requests[count++];
        request->size = strcspn(line, "\n") / 2;
        request->data = malloc(before + request->size + 1);
        for (size_t at = 0; at < request->size; at++)
            sscanf(line + 2 * at, "%2hhx", (unsigned char *)&request->data[before + at]);
    }
    fclose(file);
    free(line);
}

/* Return the size of a whole HTTP answer, 0 while that is not known; a zero stands behind it. */
static inline size_t answer_size(char *data, size_t got)
{
    char *end = memmem(data, got, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    char *length = strcasestr(data, "\ncontent-length:");
    size_t size = end + 4 - data + (length ? strtoul(length + 16, NULL, 10) : 0);
    *end = '\r';
    return size;
}
