/* The floor of any fan-out: a loop of send() to connections that have already been accepted.
 *
 * usage: floor PORT CONNECTIONS FRAME_BYTES
 * Prints "ready" once CONNECTIONS clients are there and have sent something (their handshake, which is not read for sense).
 * Then reads lines "COUNT INTERVAL_US" from standard input; for each, sends COUNT frames to every connection, one
 * pass each INTERVAL_US, and prints "CPU_NS WALL_NS" of its own. Ends at end of input.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  int port = atoi(argv[1]), connections = atoi(argv[2]), size = atoi(argv[3]), on = 1;
  int *fds = calloc(connections, sizeof *fds);
  char *frame = malloc(size), buffer[4096];
  memset(frame, 'x', size);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return perror("floor"), 1;
  printf("listening\n"), fflush(stdout);
  for (int i = 0; i < connections; i++) {
    fds[i] = accept(listener, NULL, NULL);
    setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (recv(fds[i], buffer, sizeof buffer, 0) <= 0) return 1;
  }
  printf("ready\n"), fflush(stdout);
  int count, interval_us;
  while (scanf("%d %d", &count, &interval_us) == 2) {
    long long cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), start = now_ns(CLOCK_MONOTONIC);
    for (int pass = 0; pass < count; pass++) {
      for (int i = 0; i < connections; i++)
        if (send(fds[i], frame, size, MSG_NOSIGNAL) != size) return perror("floor: send"), 1;
      long long wait = start + (pass + 1) * interval_us * 1000LL - now_ns(CLOCK_MONOTONIC);
      if (wait > 0) usleep(wait / 1000);
    }
    printf("%lld %lld\n", now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu, now_ns(CLOCK_MONOTONIC) - start), fflush(stdout);
  }
  return 0;
}
