/*
 * Small UDP packets, many: the load of the benchmark's UDP rows, and the hole they fall into.
 *
 *     udpload send ADDRESS PORT SECONDS [PACKETS_PER_SECOND]
 *     udpload sink PORT
 *
 * send: 64-byte IPv4 packets from 64 source ports in turn, as fast as they go or at a fixed rate; prints
 * how many were sent.  sink: reads and forgets, until it is killed; the kernel counts (/proc/net/snmp).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum {
	FLOWS = 64,
	PAYLOAD = 64 - 20 - 8,		/* an IPv4 packet of 64 bytes */
	BETWEEN_BURSTS_NS = 100000,	/* a fixed rate goes out in bursts this far apart */
	BATCH = 64,
};

static void die(const char *tried)
{
	fprintf(stderr, "udpload: cannot %s: %s\n", tried, strerror(errno));
	exit(1);
}

static struct sockaddr_in endpoint(const char *address, const char *port)
{
	struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	if (inet_pton(AF_INET, address, &where.sin_addr) != 1)
		die("read the address");
	return where;
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Send for *duration* seconds, at *rate* packets a second or, with 0, without a pause. */
static void send_packets(const struct sockaddr_in *to, double duration, double rate)
{
	static const struct timespec pause = {.tv_nsec = BETWEEN_BURSTS_NS};
	static const char payload[PAYLOAD];
	unsigned long long sent = 0, refused = 0;
	double start, elapsed = 0;
	int sockets[FLOWS];

	for (int i = 0; i < FLOWS; i++) {
		sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (sockets[i] < 0 || connect(sockets[i], (const struct sockaddr *)to, sizeof *to))
			die("connect");
	}
	prctl(PR_SET_TIMERSLACK, 1000UL);
	start = seconds_now();
	while (elapsed < duration) {
		unsigned long long due = rate > 0 ? (unsigned long long)(elapsed * rate) : sent + refused + FLOWS;

		while (sent + refused < due) {
			if (send(sockets[(sent + refused) % FLOWS], payload, sizeof payload, 0) < 0)
				refused++;
			else
				sent++;
		}
		if (rate > 0)
			nanosleep(&pause, NULL);
		elapsed = seconds_now() - start;
	}
	printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", sent, refused, elapsed);
}

static void sink(const char *port)
{
	static char packets[BATCH][2048];
	struct sockaddr_in here = endpoint("0.0.0.0", port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), bytes = 16 << 20;
	struct mmsghdr received[BATCH] = {0};
	struct iovec place[BATCH];

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here))
		die("bind the port");
	for (int i = 0; i < BATCH; i++) {
		place[i] = (struct iovec){packets[i], sizeof packets[i]};
		received[i].msg_hdr = (struct msghdr){.msg_iov = &place[i], .msg_iovlen = 1};
	}
	puts("ready");
	fflush(stdout);
	while (recvmmsg(fd, received, BATCH, MSG_WAITFORONE, NULL) >= 0)
		;
	die("receive");
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "sink")) {
		sink(argv[2]);
	} else if ((argc == 5 || argc == 6) && !strcmp(argv[1], "send")) {
		struct sockaddr_in to = endpoint(argv[2], argv[3]);

		send_packets(&to, atof(argv[4]), argc == 6 ? atof(argv[5]) : 0);
	} else {
		fprintf(stderr, "usage: udpload send ADDRESS PORT SECONDS [RATE] | udpload sink PORT\n");
		return 2;
	}
	return 0;
}
