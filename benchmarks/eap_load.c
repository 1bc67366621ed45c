/* A load generator: many devices that log in over RADIUS, several at a time, all checked.
 *
 *   eap_load ADDRESS PORT SECRET full|resume 1.2|1.3 IDENTITIES CA COUNT PARALLEL
 *   eap_load ADDRESS PORT SECRET pap         -       PASSWORDS  -  COUNT PARALLEL
 *
 * IDENTITIES names one device a line (certificate and key file; devices may share them),
 * PASSWORDS one login (name and password). It makes itself ready (a full login of every device where sessions are to be
 * resumed), prints "ready", waits for a line and then logs in COUNT times. It prints
 *
 *   accepted seconds refused resumed requests retransmissions median-ms p95-ms
 *
 * Every answer's authenticators are verified. EAP-TLS (RFC 5216, 9190) is spoken as
 * wpa_supplicant does, and MS-MPPE-Recv-Key must equal the key that this side derived: a server
 * that cuts corners is refused, not measured. Each conversation has a socket of its own, as if
 * it came from an access point of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PACKET = 4096, FLIGHT = 65536, FRAGMENT = 1398, TRIES = 8, DIGEST = 16 };
enum { REQUEST = 1, ACCEPT = 2, REJECT = 3, CHALLENGE = 11 };
enum { LENGTH_FLAG = 0x80, MORE_FLAG = 0x40, START_FLAG = 0x20, EAP_TLS = 13 };

/* Who logs in: a certificate and the session to resume, or a name and a password. */
struct device {
    char *name, *word, path[1024];
    SSL_CTX *context;
    SSL_SESSION *session;
};

/* One login at a time on one socket. */
struct slot {
    int fd, tries, size, established;
    unsigned char id, eap_id;
    struct device *device;
    double began, due;
    unsigned char packet[PACKET], state[256];
    int state_size;
    SSL *ssl;
    BIO *from_server, *to_server;
    unsigned char in[FLIGHT], out[FLIGHT];
    int in_size, out_size, out_sent;
};

static const char *secret;
static struct device *devices;
static int count, wanted, begun, ended, queue, tls, resuming, warming;
static long accepted, refused, resumed, requests, retransmissions;
static double *latencies;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* ---- RADIUS ----------------------------------------------------------------------------- */

static void md5(unsigned char *digest, int parts, ...)
{
    static EVP_MD_CTX *context;
    va_list values;
    if (!context)
        context = EVP_MD_CTX_new();
    EVP_DigestInit_ex(context, EVP_md5(), NULL);
    va_start(values, parts);
    while (parts--) {
        const void *data = va_arg(values, const void *);
        EVP_DigestUpdate(context, data, va_arg(values, int));
    }
    va_end(values);
    EVP_DigestFinal_ex(context, digest, NULL);
}

static void sign(unsigned char *digest, const unsigned char *packet, int size)
{
    HMAC(EVP_md5(), secret, strlen(secret), packet, size, digest, NULL);
}

static void add(struct slot *slot, int type, const void *value, int size)
{
    unsigned char *place = slot->packet + slot->size;
    if (size > 253 || slot->size + 2 + size > PACKET)
        die("a request became too large");
    place[0] = type;
    place[1] = size + 2;
    memcpy(place + 2, value, size);
    slot->size += size + 2;
}

static void add_number(struct slot *slot, int type, uint32_t value)
{
    value = htonl(value);
    add(slot, type, &value, sizeof value);
}

static void put(struct slot *slot)
{
    requests++;
    slot->due = now() + 3;
    if (send(slot->fd, slot->packet, slot->size, 0) != slot->size)
        die("send: the server is gone");
}

/* Begin an Access-Request: everything that a NAS says beside the credentials. */
static void begin_request(struct slot *slot)
{
    char station[32];
    int number = slot->device - devices;
    slot->packet[0] = REQUEST;
    slot->packet[1] = ++slot->id;
    if (RAND_bytes(slot->packet + 4, DIGEST) != 1)
        die("RAND_bytes");
    slot->size = 20;
    slot->tries = 1;
    snprintf(station, sizeof station, "02-00-%02X-%02X-%02X-%02X", number >> 24 & 255,
             number >> 16 & 255, number >> 8 & 255, number & 255);
    add(slot, 1, slot->device->name, strlen(slot->device->name));
    add_number(slot, 4, 0x7f000001);
    add(slot, 31, station, strlen(station));
    add_number(slot, 12, 1400);
    add_number(slot, 61, 19);
    add_number(slot, 6, 2);
    add(slot, 77, "CONNECT 11Mbps 802.11b", 22);
}

static void finish_request(struct slot *slot)
{
    static const unsigned char zeros[DIGEST];
    unsigned char *place = slot->packet + slot->size + 2;
    add(slot, 80, zeros, DIGEST);
    slot->packet[2] = slot->size >> 8;
    slot->packet[3] = slot->size & 255;
    sign(place, slot->packet, slot->size);
    put(slot);
}

/* User-Password (RFC 2865, 5.2). */
static void add_password(struct slot *slot, const char *word)
{
    unsigned char hidden[128] = {0}, digest[DIGEST];
    const unsigned char *before = slot->packet + 4;
    int size = strlen(word), whole = size ? (size + 15) / 16 * 16 : 16;
    if (size > (int)sizeof hidden)
        die("a password is too long");
    memcpy(hidden, word, size);
    for (int place = 0; place < whole; place += 16) {
        md5(digest, 2, secret, (int)strlen(secret), before, DIGEST);
        for (int i = 0; i < DIGEST; i++)
            hidden[place + i] ^= digest[i];
        before = hidden + place;
    }
    add(slot, 2, hidden, whole);
}

static void send_eap(struct slot *slot, const unsigned char *data, int size)
{
    unsigned char eap[PACKET];
    begin_request(slot);
    eap[0] = 2;
    eap[1] = slot->eap_id;
    eap[2] = (size + 4) >> 8;
    eap[3] = (size + 4) & 255;
    memcpy(eap + 4, data, size);
    size += 4;
    for (int place = 0; place < size; place += 253)
        add(slot, 79, eap + place, size - place < 253 ? size - place : 253);
    if (slot->state_size)
        add(slot, 24, slot->state, slot->state_size);
    finish_request(slot);
}

/* Find an attribute; with `joined`, put all of its values together into a buffer. */
static int find(const unsigned char *packet, int size, int type, unsigned char *joined, int room)
{
    int total = 0;
    for (int place = 20; place + 2 <= size; place += packet[place + 1]) {
        int length = packet[place + 1] - 2;
        if (length < 0 || place + 2 + length > size)
            die("the server sent a malformed packet");
        if (packet[place] != type)
            continue;
        if (total + length > room)
            die("the server sent too much");
        memcpy(joined + total, packet + place + 2, length);
        total += length;
    }
    return total;
}

static void verify(struct slot *slot, unsigned char *answer, int size)
{
    unsigned char digest[DIGEST], theirs[DIGEST], signature[DIGEST];
    memcpy(theirs, answer + 4, DIGEST);
    memcpy(answer + 4, slot->packet + 4, DIGEST);
    md5(digest, 2, answer, size, secret, (int)strlen(secret));
    if (memcmp(digest, theirs, DIGEST))
        die("a Response Authenticator is wrong");
    for (int place = 20; place + 18 <= size; place += answer[place + 1]) {
        if (answer[place] == 80) {
            memcpy(signature, answer + place + 2, DIGEST);
            memset(answer + place + 2, 0, DIGEST);
            sign(digest, answer, size);
            if (memcmp(digest, signature, DIGEST))
                die("a Message-Authenticator is wrong");
            return;
        }
        if (answer[place + 1] < 2)
            break;
    }
    if (tls)
        die("an answer has no Message-Authenticator");
}

/* Compare MS-MPPE-Recv-Key (RFC 2548, 2.4.3) with the first half of our MSK. */
static void check_key(struct slot *slot, const unsigned char *answer, int size)
{
    static const char *old_label = "client EAP encryption";
    static const char *new_label = "EXPORTER_EAP_TLS_Key_Material";
    unsigned char block[128], type = EAP_TLS, plain[48], digest[DIGEST];
    int new = SSL_version(slot->ssl) == TLS1_3_VERSION;
    const char *label = new ? new_label : old_label;
    if (!SSL_export_keying_material(slot->ssl, block, sizeof block, label, strlen(label), &type,
                                    new, new))
        die("no keys were derived");
    for (int place = 20; place + 2 <= size; place += answer[place + 1]) {
        const unsigned char *value = answer + place + 2, *salt = value + 6, *hidden = value + 8;
        if (answer[place] != 26 || answer[place + 1] != 58 || memcmp(value, "\0\0\1\x37\x11", 5))
            continue;
        for (int i = 0; i < 48; i++) {
            if (i % 16 == 0 && i == 0)
                md5(digest, 3, secret, (int)strlen(secret), slot->packet + 4, DIGEST, salt, 2);
            else if (i % 16 == 0)
                md5(digest, 2, secret, (int)strlen(secret), hidden + i - 16, DIGEST);
            plain[i] = hidden[i] ^ digest[i % 16];
        }
        if (plain[0] != 32 || memcmp(plain + 1, block, 32))
            die("the server sent another key than ours");
        return;
    }
    die("the server sent no key");
}

/* ---- EAP-TLS ---------------------------------------------------------------------------- */

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct slot *slot = SSL_get_app_data(ssl);
    SSL_SESSION_free(slot->device->session);
    slot->device->session = session;
    return 1;
}

static void begin_tls(struct slot *slot)
{
    slot->ssl = SSL_new(slot->device->context);
    slot->from_server = BIO_new(BIO_s_mem());
    slot->to_server = BIO_new(BIO_s_mem());
    SSL_set_bio(slot->ssl, slot->from_server, slot->to_server);
    SSL_set_app_data(slot->ssl, slot);
    SSL_set_connect_state(slot->ssl);
    if (resuming && slot->device->session)
        SSL_set_session(slot->ssl, slot->device->session);
    slot->in_size = slot->out_size = slot->out_sent = 0;
    slot->established = 0;
}

static void end_tls(struct slot *slot)
{
    if (!slot->ssl)
        return;
    /* Else OpenSSL holds the session to have ended badly and forgets it. */
    SSL_set_shutdown(slot->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(slot->ssl);
    slot->ssl = NULL;
}

static void run_tls(struct slot *slot)
{
    unsigned char data[64];
    BIO_write(slot->from_server, slot->in, slot->in_size);
    slot->in_size = 0;
    if (!slot->established) {
        int result = SSL_do_handshake(slot->ssl);
        int error = SSL_get_error(slot->ssl, result);
        if (result != 1 && error != SSL_ERROR_WANT_READ)
            die("the handshake failed");
        slot->established = result == 1;
    }
    /* What follows the handshake: new sessions, and the one octet of RFC 9190, 2.1.1. */
    if (slot->established)
        while (SSL_read(slot->ssl, data, sizeof data) > 0)
            ;
    slot->out_sent = 0;
    slot->out_size = BIO_read(slot->to_server, slot->out, FLIGHT);
    if (slot->out_size < 0)
        slot->out_size = 0;
}

static void send_fragment(struct slot *slot)
{
    unsigned char data[FRAGMENT + 16];
    int left = slot->out_size - slot->out_sent, size = left < FRAGMENT ? left : FRAGMENT;
    int head = 2;
    data[0] = EAP_TLS;
    data[1] = 0;
    if (left > FRAGMENT)
        data[1] |= MORE_FLAG;
    if (left > FRAGMENT && !slot->out_sent) {
        uint32_t total = htonl(slot->out_size);
        data[1] |= LENGTH_FLAG;
        memcpy(data + 2, &total, 4);
        head += 4;
    }
    memcpy(data + head, slot->out + slot->out_sent, size);
    slot->out_sent += size;
    send_eap(slot, data, head + size);
}

static void receive_eap(struct slot *slot, const unsigned char *eap, int size)
{
    static const unsigned char empty[2] = {EAP_TLS, 0};
    int length, flags, head = 6;
    if (size < 6 || eap[0] != 1 || (length = eap[2] << 8 | eap[3]) > size || length < 6)
        die("the server sent an odd EAP packet");
    if (eap[4] != EAP_TLS)
        die("the server wants EAP type %d", eap[4]);
    slot->eap_id = eap[1];
    flags = eap[5];
    if (flags & LENGTH_FLAG)
        head += 4;
    if (flags & START_FLAG)
        begin_tls(slot);
    if (!slot->ssl || length < head || slot->in_size + length - head > FLIGHT)
        die("the server sent odd fragments");
    memcpy(slot->in + slot->in_size, eap + head, length - head);
    slot->in_size += length - head;
    if (flags & MORE_FLAG)
        send_eap(slot, empty, sizeof empty);
    else if (slot->out_sent < slot->out_size)
        send_fragment(slot); /* that was the acknowledgement of the fragment before */
    else {
        run_tls(slot);
        send_fragment(slot);
    }
}

/* ---- logins ----------------------------------------------------------------------------- */

static void begin_login(struct slot *slot)
{
    unsigned char identity[256];
    int size;
    if (begun == wanted) {
        slot->due = 0;
        return;
    }
    slot->device = &devices[begun++ % count];
    slot->began = now();
    slot->state_size = 0;
    if (!tls) {
        begin_request(slot);
        add_password(slot, slot->device->word);
        finish_request(slot);
        return;
    }
    size = strlen(slot->device->name);
    slot->eap_id = 0;
    identity[0] = 1;
    memcpy(identity + 1, slot->device->name, size);
    send_eap(slot, identity, size + 1);
}

static void end_login(struct slot *slot, int good)
{
    if (good) {
        latencies[accepted++] = now() - slot->began;
        if (tls && SSL_session_reused(slot->ssl))
            resumed++;
        if (tls && warming && SSL_version(slot->ssl) != TLS1_3_VERSION)
            keep_session(slot->ssl, SSL_get1_session(slot->ssl));
    } else
        refused++;
    end_tls(slot);
    ended++;
    begin_login(slot);
}

static void receive(struct slot *slot)
{
    unsigned char answer[PACKET], eap[PACKET];
    int size = recv(slot->fd, answer, sizeof answer, MSG_DONTWAIT), eap_size;
    if (size < 20 || answer[1] != slot->id || !slot->due)
        return; /* an answer to a retransmission that came after the first one */
    if ((answer[2] << 8 | answer[3]) != size)
        die("a packet has another length than it says");
    verify(slot, answer, size);
    if (answer[0] == CHALLENGE && tls) {
        slot->state_size = find(answer, size, 24, slot->state, sizeof slot->state);
        eap_size = find(answer, size, 79, eap, sizeof eap);
        receive_eap(slot, eap, eap_size);
        return;
    }
    if (answer[0] == ACCEPT && tls) {
        if (find(answer, size, 79, eap, sizeof eap) < 4 || eap[0] != 3 || !slot->established)
            die("a login was accepted that was not complete");
        check_key(slot, answer, size);
    }
    end_login(slot, answer[0] == ACCEPT);
}

static void retransmit(struct slot *slots, int parallel)
{
    double time = now();
    for (int i = 0; i < parallel; i++) {
        if (!slots[i].due || slots[i].due > time)
            continue;
        if (slots[i].tries++ == TRIES) {
            end_login(&slots[i], 0);
            continue;
        }
        retransmissions++;
        put(&slots[i]);
    }
}

static void run(struct slot *slots, int parallel, int logins)
{
    struct epoll_event events[64];
    wanted = logins;
    begun = ended = 0;
    accepted = refused = resumed = requests = retransmissions = 0;
    for (int i = 0; i < parallel; i++)
        begin_login(&slots[i]);
    for (double check = now() + 1; ended < wanted;) {
        int ready = epoll_wait(queue, events, 64, 200);
        for (int i = 0; i < ready; i++)
            receive(events[i].data.ptr);
        if (now() > check) {
            retransmit(slots, parallel);
            check = now() + 0.5;
        }
    }
}

/* ---- setting up ------------------------------------------------------------------------- */

static SSL_CTX *make_context(const char *version, const char *authority, const char *certificate,
                             const char *key)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    int number = strcmp(version, "1.3") ? TLS1_2_VERSION : TLS1_3_VERSION;
    SSL_CTX_set_min_proto_version(context, number);
    SSL_CTX_set_max_proto_version(context, number);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_load_verify_locations(context, authority, NULL) != 1
        || SSL_CTX_use_certificate_chain_file(context, certificate) != 1
        || SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        die("%s or %s cannot be used", certificate, key);
    if (number == TLS1_3_VERSION) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_session);
    } else
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET); /* as wpa_supplicant for EAP-TLS */
    return context;
}

static void read_devices(const char *path, const char *version, const char *authority)
{
    char first[1024], second[1024], name[64];
    FILE *file = fopen(path, "r");
    if (!file)
        die("%s cannot be read", path);
    while (fscanf(file, "%1023s %1023s", first, second) == 2) {
        devices = realloc(devices, (count + 1) * sizeof *devices);
        memset(&devices[count], 0, sizeof *devices);
        snprintf(name, sizeof name, "device-%d", count);
        devices[count].name = strdup(tls ? name : first);
        devices[count].word = strdup(second);
        if (tls) {
            struct device *same = devices;
            snprintf(devices[count].path, sizeof same->path, "%s", first);
            while (strcmp(same->path, first))
                same++;
            devices[count].context = same->context;
            if (!same->context)
                same->context = make_context(version, authority, first, second);
        }
        count++;
    }
    fclose(file);
    if (!count)
        die("%s names nobody", path);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct slot *slots;
    int parallel, logins;
    double start;
    if (argc != 10)
        die("usage: see eap_load.c");
    address.sin_addr.s_addr = inet_addr(argv[1]);
    address.sin_port = htons(atoi(argv[2]));
    secret = argv[3];
    tls = strcmp(argv[4], "pap") != 0;
    resuming = !strcmp(argv[4], "resume");
    logins = atoi(argv[8]);
    parallel = atoi(argv[9]);
    read_devices(argv[6], argv[5], argv[7]);
    if (resuming && count < parallel)
        die("each conversation needs a device of its own to resume");
    slots = calloc(parallel, sizeof *slots);
    latencies = calloc((logins > count ? logins : count) + 1, sizeof *latencies);
    queue = epoll_create1(0);
    for (int i = 0; i < parallel; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &slots[i]};
        slots[i].fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (connect(slots[i].fd, (struct sockaddr *)&address, sizeof address)
            || epoll_ctl(queue, EPOLL_CTL_ADD, slots[i].fd, &event))
            die("a socket cannot be made");
    }
    if (resuming) {
        warming = 1;
        run(slots, parallel, count);
        warming = 0;
        if (refused)
            die("%ld of the logins before the measurement were refused", refused);
    }
    puts("ready");
    fflush(stdout);
    while (getchar() != '\n')
        ;
    start = now();
    run(slots, parallel, logins);
    start = now() - start;
    qsort(latencies, accepted, sizeof *latencies, ascending);
    printf("%ld %.6f %ld %ld %ld %ld %.3f %.3f\n", accepted, start, refused, resumed, requests,
           retransmissions, latencies[accepted / 2] * 1e3, latencies[accepted * 95 / 100] * 1e3);
    return 0;
}
