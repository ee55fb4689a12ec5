/*
 * One TCP connection, 64 bytes there and 64 bytes back, one question at a time: the latency of a path.
 *
 *     pingpong ask ADDRESS PORT SECONDS
 *     pingpong answer PORT
 *
 * ask: asks for so long and prints how often, and the median and 99th percentile of the times from question
 * to answer, in microseconds.  The first questions do not count: the connection is new, caches are cold.
 * answer: gives every connection back what it sends, until it is killed; a process each, so that a
 * connection whose path died is in nobody's way.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
	BYTES = 64,
	UNCOUNTED = 100,
	MAX_ANSWERS = 1 << 20,		/* a second has room for 200,000 */
	PATIENCE_SECONDS = 5,
};

static void die(const char *tried)
{
	fprintf(stderr, "pingpong: cannot %s: %s\n", tried, strerror(errno));
	exit(1);
}

static struct sockaddr_in endpoint(const char *address, const char *port)
{
	struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	if (inet_pton(AF_INET, address, &where.sin_addr) != 1)
		die("read the address");
	return where;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void set_no_delay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Receive exactly BYTES bytes; return 0 when the other end is done. */
static int receive(int fd, char *message)
{
	for (size_t have = 0; have < BYTES;) {
		ssize_t got = recv(fd, message + have, BYTES - have, 0);

		if (got < 0)
			die("receive");
		if (got == 0)
			return 0;
		have += got;
	}
	return 1;
}

static void send_message(int fd, const char *message)
{
	if (send(fd, message, BYTES, MSG_NOSIGNAL) != BYTES)
		die("send");
}

static int compare(const void *left, const void *right)
{
	float a = *(const float *)left, b = *(const float *)right;

	return (a > b) - (a < b);
}

static void ask(const struct sockaddr_in *to, double seconds)
{
	static float took_us[MAX_ANSWERS];
	static char message[BYTES];
	struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int64_t end, before, after;
	int count = 0;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof *to))
		die("connect");
	set_no_delay(fd);
	end = now_ns() + (int64_t)(seconds * 1e9);
	for (int asked = 0; count < MAX_ANSWERS; asked++) {
		before = now_ns();
		send_message(fd, message);
		if (!receive(fd, message)) {
			errno = ECONNRESET;
			die("receive");
		}
		after = now_ns();
		if (asked >= UNCOUNTED)
			took_us[count++] = (after - before) / 1e3;
		if (after > end)
			break;
	}
	if (count == 0) {
		fprintf(stderr, "pingpong: no more than %d answers came in time\n", UNCOUNTED);
		exit(1);
	}
	qsort(took_us, count, sizeof took_us[0], compare);
	printf("{\"answers\": %d, \"p50_us\": %.2f, \"p99_us\": %.2f}\n",
	       count, took_us[count / 2], took_us[(int)(count * 0.99)]);
}

static void answer(const char *port)
{
	struct sockaddr_in here = endpoint("0.0.0.0", port);
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1, client;
	char message[BYTES];

	signal(SIGCHLD, SIG_IGN);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) || listen(fd, 64))
		die("listen at the port");
	puts("ready");
	fflush(stdout);
	while ((client = accept(fd, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			close(fd);
			set_no_delay(client);
			while (receive(client, message))
				send_message(client, message);
			exit(0);
		}
		close(client);
	}
	die("accept");
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "answer")) {
		answer(argv[2]);
	} else if (argc == 5 && !strcmp(argv[1], "ask")) {
		struct sockaddr_in to = endpoint(argv[2], argv[3]);

		ask(&to, atof(argv[4]));
	} else {
		fprintf(stderr, "usage: pingpong ask ADDRESS PORT SECONDS | pingpong answer PORT\n");
		return 2;
	}
	return 0;
}
