/*
 * Small UDP packets, many: the load of the benchmark's UDP rows, and the hole they fall into.
 *
 *     udpload send ADDRESS PORT SECONDS [PACKETS_PER_SECOND]
 *     udpload window ADDRESS PORT SECONDS FILE
 *     udpload sink PORT [FILE]
 *
 * send: 64-byte IPv4 packets from 64 source ports in turn, as fast as they go or at a fixed rate; prints
 * how many were sent.  window: the same, but no more than WINDOW of them are on their way at a time, so
 * that nothing has to be dropped: as many as sender, director and sink carry together.  They go out in
 * batches, so that little of the time is the sender's.  sink: reads and forgets, until it is killed; the
 * kernel counts (/proc/net/snmp), and FILE, shared memory, tells the window's sender.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>

enum {
	FLOWS = 64,
	PAYLOAD = 64 - 20 - 8,		/* an IPv4 packet of 64 bytes */
	BETWEEN_BURSTS_NS = 100000,	/* a fixed rate goes out in bursts this far apart */
	BATCH = 64,
	WINDOW = 1024,			/* packets on their way: what a network card's ring holds */
	LOST_NS = 50000000,		/* those that have not come by then will not */
};

/* What sink and sender share. */
struct progress {
	atomic_uint arrived;
	atomic_uint waiting;		/* the sender sleeps until arrived has changed */
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

static struct progress *shared(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	struct progress *progress = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, sizeof *progress))
		progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (progress == MAP_FAILED)
		die("share the file");
	return progress;
}

static void open_flows(int *sockets, const struct sockaddr_in *to)
{
	for (int i = 0; i < FLOWS; i++) {
		sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (sockets[i] < 0 || connect(sockets[i], (const struct sockaddr *)to, sizeof *to))
			die("connect");
	}
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

	open_flows(sockets, to);
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

/* Sleep until more than *seen* packets have arrived; return 0 when none does for long. */
static int wait_for_more(struct progress *progress, unsigned int seen)
{
	static const struct timespec patience = {.tv_nsec = LOST_NS};
	int result = 0;

	atomic_store(&progress->waiting, 1);
	if (atomic_load(&progress->arrived) == seen)
		result = syscall(SYS_futex, &progress->arrived, FUTEX_WAIT, seen, &patience, NULL, 0);
	atomic_store(&progress->waiting, 0);
	return !(result < 0 && errno == ETIMEDOUT);
}

/* Send for *duration* seconds with at most WINDOW packets on their way. */
static void send_window(const struct sockaddr_in *to, double duration, struct progress *progress)
{
	static char payload[PAYLOAD];
	struct iovec content = {payload, sizeof payload};
	struct mmsghdr batch[BATCH] = {0};
	unsigned long long sent = 0, lost = 0;
	unsigned int first = atomic_load(&progress->arrived), arrived;
	double start, elapsed = 0;
	int sockets[FLOWS], flow = 0, done;

	open_flows(sockets, to);
	for (int i = 0; i < BATCH; i++)
		batch[i].msg_hdr = (struct msghdr){.msg_iov = &content, .msg_iovlen = 1};
	start = seconds_now();
	while (elapsed < duration) {
		arrived = atomic_load(&progress->arrived);
		if (sent - lost - (arrived - first) + BATCH <= WINDOW) {
			done = sendmmsg(sockets[flow++ % FLOWS], batch, BATCH, 0);
			sent += done > 0 ? done : 0;
		} else if (!wait_for_more(progress, arrived)) {
			lost = sent - (arrived - first);
		}
		elapsed = seconds_now() - start;
	}
	printf("{\"sent\": %llu, \"refused\": 0, \"seconds\": %.6f}\n", sent, elapsed);
}

static void sink(const char *port, struct progress *progress)
{
	static char packets[BATCH][2048];
	struct sockaddr_in here = endpoint("0.0.0.0", port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), bytes = 16 << 20;
	struct mmsghdr received[BATCH] = {0};
	struct iovec place[BATCH];
	int got;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here))
		die("bind the port");
	for (int i = 0; i < BATCH; i++) {
		place[i] = (struct iovec){packets[i], sizeof packets[i]};
		received[i].msg_hdr = (struct msghdr){.msg_iov = &place[i], .msg_iovlen = 1};
	}
	puts("ready");
	fflush(stdout);
	while ((got = recvmmsg(fd, received, BATCH, MSG_WAITFORONE, NULL)) >= 0) {
		if (!progress)
			continue;
		atomic_fetch_add(&progress->arrived, got);
		if (atomic_load(&progress->waiting))
			syscall(SYS_futex, &progress->arrived, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	die("receive");
}

int main(int argc, char **argv)
{
	if ((argc == 3 || argc == 4) && !strcmp(argv[1], "sink")) {
		sink(argv[2], argc == 4 ? shared(argv[3]) : NULL);
	} else if (argc == 6 && !strcmp(argv[1], "window")) {
		struct sockaddr_in to = endpoint(argv[2], argv[3]);

		send_window(&to, atof(argv[4]), shared(argv[5]));
	} else if ((argc == 5 || argc == 6) && !strcmp(argv[1], "send")) {
		struct sockaddr_in to = endpoint(argv[2], argv[3]);

		send_packets(&to, atof(argv[4]), argc == 6 ? atof(argv[5]) : 0);
	} else {
		fprintf(stderr, "usage: udpload send ADDRESS PORT SECONDS [RATE] | window ADDRESS PORT SECONDS FILE"
			" | sink PORT [FILE]\n");
		return 2;
	}
	return 0;
}
