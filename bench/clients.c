/* Many WebSocket clients in one process: they connect, subscribe, read, check what they read, are dropped and come back.
 *
 * It reads commands from standard input, one a line, and answers each with one line:
 *
 *   open COUNT PORT FIRST CHANNELS SUBSCRIPTIONS WINDOW MODE RECEIVE_BYTES
 *                          COUNT clients more, at most WINDOW of them connecting at a time. Client k subscribes to SUBSCRIPTIONS channels of the
 *                          CHANNELS beginning with number FIRST. MODE: session (connect and subscribe frames), bare (channel in the URL),
 *                          plain (one JSON frame, one JSON frame back). RECEIVE_BYTES: SO_RCVBUF, or 0. -> "CLIENTS WALL_US"
 *   hold FIRST COUNT       these read nothing from now on -> "ok"
 *   drop FIRST COUNT       these close their connections -> "ok"
 *   back PORT WINDOW       all that were dropped or lost come back with their positions -> "CLIENTS WALL_US"
 *   leave FIRST COUNT      these unsubscribe from all -> "CLIENTS WALL_US"
 *   until COUNT S          read until so many publications came since `reset`, or S seconds -> "COUNT WALL_US"
 *   reach OFFSET S         read until all that are there have come to this offset -> "CLIENTS WALL_US"
 *   run S                  read for so long -> "ok"
 *   ping INTERVAL_US       client 0 sends pings until there is a next command -> "PINGS P50_US P99_US MAX_US"
 *   reset                  forget all counts -> "ok"
 *   stats                  -> a JSON object
 *
 * A payload that begins with "N, N being CLOCK_MONOTONIC in microseconds in 12 digits or more, gives a latency.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { GONE, WAITING, CONNECTING, SHAKING, ASKING, OPEN };
enum mode { SESSION, BARE, PLAIN };

#define MOST 40000
#define READ_BYTES (1 << 20)
#define ASKED_AT_ONCE 500
#define LATENCIES 4000000

struct client {
  int fd, port, first, channels, subscriptions, at, asked, answered, receive_bytes;
  enum state state;
  enum mode mode;
  int is_held, is_leaving;
  long long retry_at, offset;
  char epoch[20];
  char *rest;
  size_t rest_size;
};

static struct client clients[MOST];
static int count, poller, connecting, pongs;
static long long publications, bytes, lost, duplicates, gaps, unrecovered, errors, refused, closed_by_edge, closes, samples, slowest;
static unsigned latencies[LATENCIES + 1];
static char *buffer;

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* -- sending ----------------------------------------------------------------------------------------------------------------- */

static void send_all(struct client *c, const char *data, size_t size) {
  while (size) {
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent > 0) {
      data += sent, size -= sent;
    } else if (errno == EAGAIN) {
      struct pollfd p = {c->fd, POLLOUT, 0};
      if (poll(&p, 1, 20000) <= 0) return;
    } else {
      return; /* The end is noticed when reading. */
    }
  }
}

/* A masked text frame; the mask is zero, so the message is sent as it is. */
static size_t frame(char *to, const char *message) {
  size_t size = strlen(message), head;
  to[0] = (char)0x81;
  if (size < 126) {
    to[1] = (char)(0x80 | size), head = 2;
  } else {
    to[1] = (char)(0x80 | 126), to[2] = size >> 8, to[3] = size & 255, head = 4;
  }
  memset(to + head, 0, 4);
  memcpy(to + head + 4, message, size);
  return head + 4 + size;
}

static int channel_of(struct client *c, int number) { return c->first + (c->at * c->subscriptions + number) % c->channels; }

static void ask(struct client *c) {
  static char out[ASKED_AT_ONCE * 160];
  char message[256];
  size_t size = 0;
  while (c->asked < c->subscriptions && c->asked - c->answered < ASKED_AT_ONCE && size < sizeof out - 512) {
    const char *verb = c->is_leaving ? "unsubscribe" : "subscribe";
    int n = snprintf(message, sizeof message, "{\"type\":\"%s\",\"id\":%d,\"channel\":\"b:%06d\"", verb, c->asked + 2, channel_of(c, c->asked));
    if (c->epoch[0] && !c->is_leaving)
      n += snprintf(message + n, sizeof message - n, ",\"position\":{\"epoch\":\"%s\",\"offset\":%lld}", c->epoch, c->offset);
    snprintf(message + n, sizeof message - n, "}");
    size += frame(out + size, message);
    c->asked++;
  }
  if (size) send_all(c, out, size);
}

static void shake(struct client *c) {
  char out[512], path[128] = "/v1/ws";
  if (c->mode == BARE) snprintf(path, sizeof path, "/v1/ws?channels=b:%06d", channel_of(c, 0));
  snprintf(out, sizeof out,
           "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: bench\r\n\r\n",
           path, c->port);
  send_all(c, out, strlen(out));
  c->state = SHAKING;
}

/* -- a client's life --------------------------------------------------------------------------------------------------------- */

static void start(struct client *c) {
  int on = 1;
  /* Many source addresses, so that ports in TIME_WAIT are not missed. */
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002 + (c - clients) % 50)};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(c->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) die("clients: socket");
  setsockopt(c->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (c->receive_bytes) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &c->receive_bytes, sizeof c->receive_bytes);
  if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("clients: bind");
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("clients: connect");
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die("clients: epoll");
  c->state = CONNECTING;
  c->asked = c->answered = c->is_leaving = 0;
  connecting++;
}

static void end(struct client *c, enum state next) {
  if (c->state == CONNECTING || c->state == SHAKING || c->state == ASKING) connecting--;
  close(c->fd);
  free(c->rest);
  c->rest = NULL, c->rest_size = 0;
  c->state = next;
}

static void on_open(struct client *c) {
  if (c->state != OPEN) connecting--;
  c->state = OPEN;
}

static void on_publication(struct client *c, const char *text, size_t size, long long now) {
  publications++;
  const char *at = memmem(text, size < 200 ? size : 200, "\"offset\":", 9);
  if (at && c->subscriptions == 1) {
    long long offset = atoll(at + 9);
    const char *epoch = memmem(text, size < 200 ? size : 200, "\"epoch\":\"", 9);
    int is_first = !c->epoch[0];
    if (epoch && memcmp(epoch + 9, c->epoch, 16)) memcpy(c->epoch, epoch + 9, 16), is_first = 1;
    if (!is_first && offset <= c->offset) duplicates++;
    if (!is_first && offset > c->offset + 1) lost += offset - c->offset - 1;
    if (is_first || offset > c->offset) c->offset = offset;
  }
  at = memmem(text, size < 300 ? size : 300, "\"data\":\"", 8);
  if (at) {
    char *stop;
    long long sent = strtoll(at + 8, &stop, 10), us = now / 1000 - sent;
    if (stop - at - 8 >= 12 && us >= 0) {
      samples++;
      latencies[us < LATENCIES ? us : LATENCIES]++;
      if (us > slowest) slowest = us;
    }
  }
}

static int is_type(const char *text, size_t size, const char *type) {
  size_t length = strlen(type);
  return size > 9 + length && !memcmp(text, "{\"type\":\"", 9) && !memcmp(text + 9, type, length) && text[9 + length] == '"';
}

static void on_message(struct client *c, const char *text, size_t size, long long now) {
  if (is_type(text, size, "publication")) {
    on_publication(c, text, size, now);
    if (c->state == ASKING && c->mode == BARE) on_open(c);
  } else if (c->mode == PLAIN) {
    on_open(c);
  } else if (is_type(text, size, "subscribed") || is_type(text, size, "unsubscribed")) {
    if (memmem(text, size, "\"recovered\":false", 17) && !unrecovered++) fprintf(stderr, "clients: %.*s, not after %lld\n", (int)size, text, c->offset);
    if (++c->answered == c->subscriptions) {
      on_open(c);
    } else if (c->asked - c->answered <= ASKED_AT_ONCE / 2) {
      ask(c);
    }
  } else if (is_type(text, size, "pong")) {
    pongs++;
  } else if (is_type(text, size, "gap")) {
    gaps++;
  } else if (is_type(text, size, "error")) {
    if (!errors++) fprintf(stderr, "clients: %.*s\n", (int)size, text);
  }
}

/* Takes whole frames; returns how many bytes they had. */
static size_t frames(struct client *c, char *data, size_t size, long long now) {
  size_t at = 0;
  while (size - at >= 2) {
    unsigned char *head = (unsigned char *)data + at;
    size_t length = head[1] & 127, skip = 2;
    if (length == 126) {
      skip = 4;
      if (size - at < skip) break;
      length = head[2] << 8 | head[3];
    } else if (length == 127) {
      skip = 10;
      if (size - at < skip) break;
      length = 0;
      for (int i = 2; i < 10; i++) length = length << 8 | head[i];
    }
    if (size - at < skip + length) break;
    int opcode = head[0] & 15;
    if (opcode == 8) {
      if (!closes++) fprintf(stderr, "clients: close frame: %d %.*s\n", length < 2 ? 0 : (data[at + skip] & 255) << 8 | (data[at + skip + 1] & 255), (int)length - 2, data + at + skip + 2);
    } else if (opcode == 1) {
      on_message(c, data + at + skip, length, now);
    } else if (opcode == 9) {
      static const char pong[6] = {(char)0x8a, (char)0x80, 0, 0, 0, 0};
      send_all(c, pong, sizeof pong);
    }
    at += skip + length;
  }
  return at;
}

static void on_refused(struct client *c, const char *answer) {
  const char *after = strcasestr(answer, "\r\nretry-after:");
  double wait_s = after ? atof(after + 14) : 1;
  refused++;
  end(c, WAITING);
  c->retry_at = now_ns() + (long long)(1e9 * wait_s * (1 + (rand() % 1000) / 1000.0));
}

static void on_answer(struct client *c, char *data, size_t *size, size_t *at) {
  data[*size] = 0;
  char *stop = strstr(data, "\r\n\r\n");
  if (!stop) return;
  if (!strstr(data, " 101 ") || strstr(data, " 101 ") > data + 10) {
    on_refused(c, data);
    *at = *size;
    return;
  }
  *at = stop + 4 - data;
  c->state = ASKING;
  if (c->mode == SESSION) {
    char out[256];
    send_all(c, out, frame(out, "{\"type\":\"connect\",\"id\":1}"));
    ask(c);
  } else if (c->mode == PLAIN) {
    char out[256], message[128];
    snprintf(message, sizeof message, "{\"type\":\"subscribe\",\"id\":2,\"channel\":\"b:%06d\"}", channel_of(c, 0));
    send_all(c, out, frame(out, message));
  }
}

static void on_readable(struct client *c) {
  if (c->rest_size) memcpy(buffer, c->rest, c->rest_size);
  ssize_t got = recv(c->fd, buffer + c->rest_size, READ_BYTES, 0);
  if (got <= 0) {
    if (got < 0 && errno == EAGAIN) return;
    int was_waiting = c->state == CONNECTING || c->state == SHAKING;
    if (!was_waiting && !closed_by_edge++) fprintf(stderr, "clients: closed by the edge: %s\n", got < 0 ? strerror(errno) : "end of stream");
    end(c, was_waiting || c->state == ASKING ? WAITING : GONE);
    c->retry_at = now_ns() + 1000000LL * (500 + rand() % 1000);
    return;
  }
  long long now = now_ns();
  size_t size = c->rest_size + got, at = 0;
  bytes += got;
  if (c->state == SHAKING) on_answer(c, buffer, &size, &at);
  if (c->state >= ASKING) at += frames(c, buffer + at, size - at, now);
  if (c->state == WAITING) return;
  free(c->rest);
  c->rest = NULL;
  c->rest_size = size - at;
  if (c->rest_size) c->rest = memcpy(malloc(c->rest_size), buffer + at, c->rest_size);
}

/* -- the loop ---------------------------------------------------------------------------------------------------------------- */

static void turn(int timeout_ms) {
  static struct epoll_event events[1024];
  int ready = epoll_wait(poller, events, 1024, timeout_ms);
  for (int i = 0; i < ready; i++) {
    struct client *c = events[i].data.ptr;
    if (c->state == CONNECTING && events[i].events & EPOLLOUT) {
      struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
      epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
      shake(c);
    } else if (c->state != GONE && c->state != WAITING) {
      on_readable(c);
    }
  }
}

static int open_of(int first, int last) {
  int open = 0;
  for (int i = first; i < last; i++) open += clients[i].state == OPEN;
  return open;
}

/* Start those that wait for it, `window` at a time, until all are open. Returns how many are. */
static int connect_all(int first, int last, int window) {
  long long give_up = now_ns() + 120000000000LL, looked = 0;
  int next = first, started = 0;
  for (;;) {
    long long now = now_ns();
    while (next < last && connecting < window) {
      if (clients[next].state == GONE) start(&clients[next]), started++;
      next++;
    }
    if (now - looked > 20000000) {
      looked = now;
      for (int i = first; i < last && connecting < window; i++)
        if (clients[i].state == WAITING && now >= clients[i].retry_at) start(&clients[i]);
      if (next == last && open_of(first, last) == last - first) break;
      if (now > give_up) break;
    }
    turn(next == last && !connecting ? 5 : 20);
    if (next == last && !connecting) looked = 0;
  }
  return open_of(first, last);
}

static void read_until(long long wanted, long long offset, double seconds) {
  long long stop = now_ns() + (long long)(seconds * 1e9);
  while (now_ns() < stop) {
    turn(20);
    if (wanted && publications >= wanted) break;
    if (offset) {
      int i = 0;
      while (i < count && (clients[i].state != OPEN || clients[i].is_held || clients[i].offset >= offset)) i++;
      if (i == count) break;
    }
  }
}

static long long percentile(double of) {
  long long seen = 0, wanted = (long long)(samples * of);
  for (int us = 0; us <= LATENCIES; us++)
    if ((seen += latencies[us]) > wanted) return us;
  return -1;
}

static void reset(void) {
  publications = bytes = lost = duplicates = gaps = unrecovered = errors = refused = closed_by_edge = closes = samples = slowest = 0;
  memset(latencies, 0, sizeof latencies);
}

static void ping(int interval_us) {
  static const char message[] = "{\"type\":\"ping\",\"id\":9}";
  struct client *c = &clients[0];
  char out[64];
  struct pollfd input = {0, POLLIN, 0};
  reset();
  while (poll(&input, 1, 0) == 0) {
    long long begin = now_ns(), us;
    int before = pongs;
    send_all(c, out, frame(out, message));
    while (pongs == before && c->state == OPEN && now_ns() - begin < 20000000000LL) turn(1000);
    us = (now_ns() - begin) / 1000;
    samples++;
    latencies[us < LATENCIES ? us : LATENCIES]++;
    if (us > slowest) slowest = us;
    if (us < interval_us) usleep(interval_us - us);
  }
  printf("%lld %lld %lld %lld\n", samples, percentile(0.5), percentile(0.99), slowest);
}

/* -- commands ---------------------------------------------------------------------------------------------------------------- */

static int next_line(char *line, size_t most) {
  size_t size = 0;
  while (size < most - 1 && read(0, line + size, 1) == 1)
    if (line[size++] == '\n') return line[size] = 0, 1;
  return 0;
}

static void obey(const char *line) {
  int a, b, first, channels, subscriptions, window, receive_bytes;
  long long offset, begin = now_ns();
  double seconds;
  char mode[16];
  if (sscanf(line, "open %d %d %d %d %d %d %15s %d", &a, &b, &first, &channels, &subscriptions, &window, mode, &receive_bytes) == 8) {
    if (count + a > MOST) exit(2);
    for (int i = 0; i < a; i++) {
      enum mode as = !strcmp(mode, "bare") ? BARE : !strcmp(mode, "plain") ? PLAIN : SESSION;
      clients[count + i] = (struct client){.port = b, .first = first, .channels = channels, .subscriptions = subscriptions, .at = i, .mode = as};
      clients[count + i].receive_bytes = receive_bytes;
    }
    count += a;
    a = connect_all(count - a, count, window);
    printf("%d %lld\n", a, (now_ns() - begin) / 1000);
  } else if (sscanf(line, "hold %d %d", &a, &b) == 2) {
    for (int i = a; i < a + b; i++) epoll_ctl(poller, EPOLL_CTL_DEL, clients[i].fd, NULL), clients[i].is_held = 1;
    printf("ok\n");
  } else if (sscanf(line, "drop %d %d", &a, &b) == 2) {
    for (int i = a; i < a + b; i++)
      if (clients[i].state != GONE) end(&clients[i], GONE), clients[i].is_held = 0;
    printf("ok\n");
  } else if (sscanf(line, "back %d %d", &a, &window) == 2) {
    for (int i = 0; i < count; i++) clients[i].port = clients[i].state == GONE ? a : clients[i].port;
    a = connect_all(0, count, window);
    printf("%d %lld\n", a, (now_ns() - begin) / 1000);
  } else if (sscanf(line, "leave %d %d", &a, &b) == 2) {
    for (int i = a; i < a + b; i++) {
      struct client *c = &clients[i];
      c->state = ASKING, c->is_leaving = 1, c->asked = c->answered = 0, connecting++;
      ask(c);
    }
    int left = 0;
    for (long long give_up = now_ns() + 60000000000LL; left < b && now_ns() < give_up; left = open_of(a, a + b)) turn(20);
    printf("%d %lld\n", left, (now_ns() - begin) / 1000);
  } else if (sscanf(line, "until %lld %lf", &offset, &seconds) == 2) {
    read_until(offset, 0, seconds);
    printf("%lld %lld\n", publications, (now_ns() - begin) / 1000);
  } else if (sscanf(line, "reach %lld %lf", &offset, &seconds) == 2) {
    read_until(0, offset, seconds);
    a = 0;
    for (int i = 0; i < count; i++) a += clients[i].state == OPEN && clients[i].offset >= offset;
    printf("%d %lld\n", a, (now_ns() - begin) / 1000);
  } else if (sscanf(line, "run %lf", &seconds) == 1) {
    read_until(0, 0, seconds);
    printf("ok\n");
  } else if (sscanf(line, "ping %d", &a) == 1) {
    ping(a);
  } else if (!strcmp(line, "reset\n")) {
    reset();
    printf("ok\n");
  } else if (!strcmp(line, "stats\n")) {
    printf("{\"open\":%d,\"publications\":%lld,\"bytes\":%lld,\"lost\":%lld,\"duplicates\":%lld,\"gaps\":%lld,\"unrecovered\":%lld,\"errors\":%lld,"
           "\"refused\":%lld,\"closed\":%lld,\"samples\":%lld,\"p50_us\":%lld,\"p99_us\":%lld,\"max_us\":%lld}\n",
           open_of(0, count), publications, bytes, lost, duplicates, gaps, unrecovered, errors, refused, closed_by_edge, samples,
           samples ? percentile(0.5) : 0, samples ? percentile(0.99) : 0, slowest);
  } else {
    fprintf(stderr, "clients: what is %s", line);
    exit(2);
  }
  fflush(stdout);
}

int main(void) {
  char line[512];
  poller = epoll_create1(0);
  buffer = malloc(READ_BYTES + (1 << 26));
  while (next_line(line, sizeof line)) obey(line);
  return 0;
}
