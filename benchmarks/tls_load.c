/* A load generator over TLS: asks each request of a file once, over N connections.
 *
 *   tls_load PORT CA IDENTITY FILE CONNECTIONS keep|close
 *
 * CA is a PEM file, IDENTITY one with certificate and key or "-". FILE holds one whole HTTP request
 * a line, in hexadecimal. "keep" opens all connections before the clock starts, "close" a new one
 * for each request, without resumption. Prints: answers, seconds, failures, and the median and the
 * 99th percentile of a request's milliseconds (its connection included).
 */
#include "load.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>

enum { ROOM = 65536 };

struct peer { SSL *tls; int fd, is_sent; size_t got; struct request *request; double begun; char data[ROOM]; };

static SSL_CTX *context;
static int queue, closes, opened, asks;
static long answers, failures;
static double *times;

static void die(const char *what)
{
    ERR_print_errors_fp(stderr);
    fail(what);
}

static void close_peer(struct peer *peer)
{
    SSL_shutdown(peer->tls);
    SSL_free(peer->tls);
    close(peer->fd);
    peer->tls = NULL;
    opened--;
}

static void open_peer(struct peer *peer)
{
    peer->fd = connected(0);
    fcntl(peer->fd, F_SETFL, O_NONBLOCK);
    peer->tls = SSL_new(context);
    SSL_set_fd(peer->tls, peer->fd);
    SSL_set_connect_state(peer->tls);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    if (epoll_ctl(queue, EPOLL_CTL_ADD, peer->fd, &event))
        die("epoll_ctl");
    opened++;
}

/* Take the next request; on a new connection for each, open one. */
static void begin(struct peer *peer)
{
    if (next == count) {
        if (peer->tls)
            close_peer(peer);
        return;
    }
    peer->request = &requests[next++];
    peer->is_sent = 0;
    peer->got = 0;
    peer->begun = now();
    if (!peer->tls)
        open_peer(peer);
}

/* Go on with handshake, request and answer as far as the socket allows. */
static void go_on(struct peer *peer)
{
    for (;;) {
        ERR_clear_error();
        int done;
        if (!asks)
            done = SSL_do_handshake(peer->tls);
        else if (!peer->is_sent)
            done = SSL_write(peer->tls, peer->request->data, peer->request->size);
        else
            done = SSL_read(peer->tls, peer->data + peer->got, ROOM - 1 - peer->got);
        if (done <= 0) {
            if (SSL_get_error(peer->tls, done) == SSL_ERROR_WANT_READ)
                return;
            if (!asks)
                die("handshake");
            failures++;
            close_peer(peer);
            begin(peer);
            return;
        }
        if (!asks)
            return;
        if (!peer->is_sent) {
            peer->is_sent = 1;
            continue;
        }
        peer->data[peer->got += done] = 0;
        size_t size = answer_size(peer->data, peer->got);
        if (!size || peer->got < size)
            continue;
        if (strncmp(peer->data, "HTTP/1.1 200", 12))
            failures++;
        else
            times[answers++] = now() - peer->begun;
        if (closes)
            close_peer(peer);
        begin(peer);
        if (!peer->tls)
            return;
    }
}

static void prepare(const char *ca, const char *identity)
{
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (!SSL_CTX_load_verify_locations(context, ca, NULL))
        die(ca);
    if (strcmp(identity, "-")
        && (!SSL_CTX_use_certificate_chain_file(context, identity)
            || !SSL_CTX_use_PrivateKey_file(context, identity, SSL_FILETYPE_PEM)))
        die(identity);
}

static void turn(int milliseconds)
{
    struct epoll_event events[256];
    int ready = epoll_wait(queue, events, 256, milliseconds);
    for (int i = 0; i < ready; i++)
        go_on(events[i].data.ptr);
}

static int is_less(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return difference < 0 ? -1 : difference > 0;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: tls_load PORT CA IDENTITY FILE CONNECTIONS keep|close\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    set_address("127.0.0.1", argv[1]);
    prepare(argv[2], argv[3]);
    read_requests(argv[4], 0);
    times = calloc(count, sizeof *times);
    closes = !strcmp(argv[6], "close");
    queue = epoll_create1(0);
    int connections = atoi(argv[5]);
    struct peer *peers = calloc(connections, sizeof *peers);
    if (!closes) {
        for (int i = 0; i < connections; i++) {
            open_peer(&peers[i]);
            while (go_on(&peers[i]), !SSL_is_init_finished(peers[i].tls))
                turn(1);
        }
    }
    asks = 1;
    /* Whoever started it does so again when it has read how busy the server was. */
    puts("ready");
    fflush(stdout);
    getchar();
    double begun = now();
    for (int i = 0; i < connections; i++) {
        begin(&peers[i]);
        if (peers[i].tls)
            go_on(&peers[i]);
    }
    while (opened && now() < begun + 300)
        turn(100);
    double seconds = now() - begun;
    qsort(times, answers, sizeof *times, is_less);
    printf("%ld %f %ld %f %f\n", answers, seconds, failures,
           answers ? times[answers / 2] * 1e3 : 0, answers ? times[answers * 99 / 100] * 1e3 : 0);
    return 0;
}
